"""What a run shows while it runs: a progress bar on a terminal, plain lines elsewhere."""

import contextlib
import datetime
import time

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

# Without a terminal, a line is due when training passes one of these epochs, the last epoch ...
_DUE = (0, *(leading * 10**power for power in range(9) for leading in (1, 2, 5)))
_SILENCE = 30.0  # ... and whenever nothing was said for so many seconds.
# Speed is told after so many: when the first call was read, the next may have been done already.
_SETTLED = 1.0


class Console:
  """Progress of a run. Use as a context manager around the loop.

  Shown are the epoch, the running train loss, the errors and V = nc1/trace_ratio of both splits
  when last observed, steps per second, and the time left; of runs trained together, medians.
  `quiet`: nothing is shown.
  """

  def __init__(self, total_epochs: int, steps_per_epoch: int, quiet: bool = False):
    self._epochs = total_epochs
    self._steps_per_epoch = steps_per_epoch
    self._screen = RichConsole(stderr=True, highlight=False, quiet=quiet)
    self._bar = None
    self._status = {"loss": "-", "error": "-", "nc1": "-", "speed": "-", "left": "-"}
    self._began = None  # (time, step) from which speed is reckoned
    self._spoke = time.monotonic()
    self._told = -1  # the last epoch of which a line was printed

  def __enter__(self):
    if self._screen.is_terminal and not self._screen.quiet:
      self._bar = _Bar(
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[speed]} steps/s  {task.fields[left]} left"),
        console=self._screen,
        expand=True,
      )
      self._task = self._bar.add_task(
        "", total=self._epochs * self._steps_per_epoch, epoch="-", **self._status
      )
      self._bar.start()
    return self

  def __exit__(self, *_):
    if self._bar is not None:
      self._bar.stop()

  def say(self, text: str):
    self._screen.print(text, markup=False, soft_wrap=True)
    self._spoke = time.monotonic()

  def trained(self, step: int, loss: float):
    """Tells of finished steps. `loss` is the mean over the last call's steps."""
    now = time.monotonic()
    if self._began is None:  # the first call compiled: it says nothing about speed
      self._began = (now, step)
    elif step > self._began[1] and now - self._began[0] >= _SETTLED:
      speed = (step - self._began[1]) / (now - self._began[0])
      left = round((self._epochs * self._steps_per_epoch - step) / speed)
      self._status["speed"] = f"{speed:.0f}" if speed >= 10 else f"{speed:.2g}"
      self._status["left"] = str(datetime.timedelta(seconds=left))
    self._status["loss"] = f"{loss:.4f}"
    self._show(step)

  def observed(self, step: int, losses, errors, nc1):
    """Tells of an observation: losses, errors and trace ratios, of (train, test) each."""
    self._status["loss"] = f"{losses[0]:.4f}"
    self._status["error"] = "/".join(f"{error:.4f}" for error in errors)
    self._status["nc1"] = "/".join(f"{value:.3g}" for value in nc1)
    epoch = step // self._steps_per_epoch
    due = epoch == self._epochs or any(self._told < mark <= epoch for mark in _DUE)
    self._show(step, due)

  def _show(self, step: int, due: bool = False):
    epoch = f"{step // self._steps_per_epoch}/{self._epochs}"
    if self._bar is not None:
      self._bar.update(self._task, completed=step, epoch=epoch, **self._status)
    elif due or time.monotonic() - self._spoke > _SILENCE:
      self._told = step // self._steps_per_epoch
      s = self._status
      self.say(f"epoch {epoch}  {_numbers(s)}  {s['speed']} steps/s  {s['left']} left")


def say(text: str):
  """A line between the progress of runs."""
  RichConsole(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


@contextlib.contextmanager
def reading(quiet: bool = False):
  """Yields `progress(done, total)`, which shows a bar on a terminal while examples are read."""
  screen = RichConsole(stderr=True)
  hidden = quiet or not screen.is_terminal
  columns = (TextColumn("reading examples"), BarColumn(bar_width=None), TimeRemainingColumn())
  with Progress(*columns, console=screen, disable=hidden, transient=True) as bar:
    task = bar.add_task("", total=None)
    yield lambda done, total: bar.update(task, completed=done, total=total)


class _Bar(Progress):
  """A progress bar with the numbers on a line of their own, so that 80 columns hold both."""

  def get_renderables(self):
    yield from super().get_renderables()
    for task in self.tasks:
      yield Text("  train/test: " + _numbers(task.fields), no_wrap=True)


def _numbers(status: dict[str, str]) -> str:
  return f"loss {status['loss']}  error {status['error']}  NC1 {status['nc1']}"
