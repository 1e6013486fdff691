"""How long the fuzz tests search, and what they take for a clear refusal.

NC_JAX_FUZZ=100 pytest tests/... searches a hundred times as long, and at random; without it a
search is short and the same every time.
"""

import os
import signal
import tracemalloc

import hypothesis

from nc_jax.errors import UserError, one_line

_TIMES = int(os.environ.get("NC_JAX_FUZZ", 1))
_MOST = 64 << 20  # bytes that reading a tiny input may take
_LONGEST = 60  # seconds, of a machine that does other things too


class _TooLong(BaseException):
  """What no reader of a file format takes for a fault of the file."""


def _give_up(*_):
  raise _TooLong


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

  Any other exception, a large allocation and a long wait are failures of the test.
  """
  tracemalloc.start()
  before = signal.signal(signal.SIGALRM, _give_up)
  signal.setitimer(signal.ITIMER_REAL, _LONGEST)
  try:
    call()
  except UserError as error:
    message = one_line(error)
    assert message and len(message) < 1000, message
    for word in words:
      assert word in message, (word, message)
    return message
  except _TooLong:
    raise AssertionError(f"It took longer than {_LONGEST} s.") from None
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < _MOST, peak
  return None
