"""Medians of interleaved calls, with compilation told apart."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax

PAUSE = 0.05  # s before each sample: threads of the last contender stop spinning for work
SAMPLE = 0.01  # s; shorter calls are repeated until a sample lasts as long


class Timing(NamedTuple):
  """Seconds per call.

  Attributes:
    samples: one per repeat.
    compiling: what tracing and compiling took in the first call.
    recompiled: programs compiled after the first call; 0 is as it should be.
  """

  samples: list[float]
  compiling: float
  recompiled: int

  @property
  def median(self) -> float:
    return statistics.median(self.samples)

  def scaled(self, factor: float) -> "Timing":
    """The same for so many times the work."""
    return self._replace(samples=[factor * sample for sample in self.samples])


class _Compiling:
  """Listens to JAX: seconds spent tracing, lowering and compiling, and programs compiled."""

  def __init__(self):
    self.spans = []
    self.programs = 0
    jax.monitoring.register_event_duration_secs_listener(self._heard)

  def _heard(self, event: str, seconds: float, **_):
    if event.startswith("/jax/core/compile/"):
      now = time.perf_counter()
      self.spans.append((now - seconds, now))
      self.programs += event.endswith("backend_compile_duration")

  def seconds(self, since: float) -> float:
    """Time covered by the spans since then; they nest where one jitted function calls another."""
    covered, total = since, 0.0
    for start, end in sorted(self.spans):
      start = max(start, covered)
      if end > start:
        total += end - start
        covered = end
    return total


_compiling = _Compiling()


def programs() -> int:
  """How many programs this process has compiled so far."""
  return _compiling.programs


def interleave(
  cases: dict[str, Callable], repeats: int, budget: float, *, in_a_row: bool = False
) -> dict[str, Timing]:
  """Times the cases in turn, A B A B ..., so that a drift of the machine meets them all.

  Args:
    cases: functions without arguments; what they return is waited for.
    repeats: samples per case.
    budget: seconds. Fewer repeats are made where a round of all cases takes too much of it; where
      even one does, the first call counts, less its compilation.
    in_a_row: wait for the last of a sample's calls only, so that a device starts one call while
      the one before it runs.
  """
  first, compiling = {}, {}
  for name, call in cases.items():
    began = time.perf_counter()
    jax.block_until_ready(call())
    elapsed = time.perf_counter() - began
    compiling[name] = _compiling.seconds(began)
    first[name] = elapsed - compiling[name]
    if first[name] < SAMPLE:  # that difference may be all noise; so short a call can be repeated
      first[name] = max(_sample(call, calls=1), 1e-9)
  rounds = min(repeats, int(budget / sum(first.values())))
  samples = {name: [] for name in cases}
  recompiled = dict.fromkeys(cases, 0)
  for _ in range(rounds):
    for name, call in cases.items():
      programs = _compiling.programs
      samples[name].append(_sample(call, max(1, int(SAMPLE / first[name])), in_a_row))
      recompiled[name] += _compiling.programs - programs
  return {
    name: Timing(samples[name] or [first[name]], compiling[name], recompiled[name])
    for name in cases
  }


def _sample(call: Callable, calls: int, in_a_row: bool = False) -> float:
  time.sleep(PAUSE)
  began = time.perf_counter()
  for left in reversed(range(calls)):
    result = call()
    if not (in_a_row and left):
      jax.block_until_ready(result)
  return (time.perf_counter() - began) / calls
