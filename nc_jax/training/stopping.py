"""How a run is asked to stop."""

import contextlib
import itertools
import os
import signal

from jax.experimental import multihost_utils

from nc_jax import processes


class Stopped(Exception):
  """The run was asked to stop; its state is saved and the same command continues it."""

  def __init__(self, signum: int, epoch: int, step: int):
    self.signum = signum
    super().__init__(
      f"Stopped by {signal.Signals(signum).name} in epoch {epoch} (step {step}) and saved; "
      "the same command continues."
    )


@contextlib.contextmanager
def stop_signals():
  """Yields `asked()`: the signal by which the run was asked to stop, or None.

  To be called once after every compiled call. Of several processes all get the same answer after
  the same call, whichever was sent the signal.
  """
  with _common_signal() if processes.several() else _own_signals() as asked:
    yield asked


@contextlib.contextmanager
def _own_signals():
  """SIGINT and SIGTERM. A second signal acts as if this were not here."""
  received, before = [], {}

  def note(signum, _):
    received.append(signum)
    for each, handler in before.items():
      signal.signal(each, handler)

  for each in (signal.SIGINT, signal.SIGTERM):
    before[each] = signal.signal(each, note)
  try:
    yield lambda: received[0] if received else None
  finally:
    for each, handler in before.items():
      signal.signal(each, handler)


@contextlib.contextmanager
def _common_signal():
  """SIGTERM, which JAX catches itself (a handler for it here would disable that), and Ctrl-C.

  JAX agrees on the number after the highest that any process has counted to: so these must be
  successive. The numbers of steps, which grow by whole calls, would pass over it.
  """
  calls = itertools.count(1)

  def terminate(*_):
    signal.signal(signal.SIGINT, before)
    os.kill(os.getpid(), signal.SIGTERM)

  before = signal.signal(signal.SIGINT, terminate)
  try:
    agreed = lambda: multihost_utils.reached_preemption_sync_point(next(calls))
    yield lambda: signal.SIGTERM if agreed() else None
  finally:
    signal.signal(signal.SIGINT, before)
