"""How long the fuzz tests search, and what they take for a clear refusal.

NC_JAX_FUZZ=100 pytest tests/... searches a hundred times as long, and at random; without it a
search is short and the same every time.
"""

import os
import tracemalloc

import hypothesis

from nc_jax.errors import UserError, one_line

_TIMES = int(os.environ.get("NC_JAX_FUZZ", 1))
_MOST = 64 << 20  # bytes that reading a tiny input may take


def search(examples: int) -> hypothesis.settings:
  """Hypothesis looks at so many examples, or a multiple of them."""
  return hypothesis.settings(
    max_examples=_TIMES * examples,
    deadline=None,
    derandomize=_TIMES == 1,
    suppress_health_check=list(hypothesis.HealthCheck),
    report_multiple_bugs=False,
  )


def refusal(call, *words: str) -> str | None:
  """What `call` says when it refuses: one line that has these words; None if it does not refuse.

  Any other exception, and a large allocation, is a failure of the test.
  """
  tracemalloc.start()
  try:
    call()
  except UserError as error:
    message = one_line(error)
    assert message and len(message) < 1000, message
    for word in words:
      assert word in message, (word, message)
    return message
  finally:
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < _MOST, peak
  return None
