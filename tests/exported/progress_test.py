"""The line of progress, on a terminal and elsewhere, by a clock that jumps."""

import io
import itertools
from types import SimpleNamespace

from nc_jax.exported import progress


def shown(monkeypatch, terminal, term="xterm"):
  """What a pass writes to a screen of 80 columns if every look at the clock takes a second."""
  screen = io.StringIO()
  screen.isatty = lambda: terminal
  monkeypatch.setattr("sys.stderr", screen)
  monkeypatch.setenv("TERM", term)
  monkeypatch.setenv("COLUMNS", "80")
  clock = itertools.count()
  monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
  batches = [SimpleNamespace(size=size) for size in (60, 60, 30)]
  with progress.ProgressLine() as line:
    line.checked(2 * 10**9)
    assert list(line.watch("train moments", batches, 150)) == batches
  return screen.getvalue()


def test_a_terminal_shows_how_far_a_pass_has_come_and_is_left_clean(monkeypatch):
  before, *texts = shown(monkeypatch, terminal=True).split("\r\x1b[K")
  assert before == ""
  assert texts[0] == "checking files: 2.0 GB"
  assert texts[1].startswith("train moments  40%  0:0")
  assert texts[1].endswith(" left  [########            ]")
  assert texts[3] == "train moments 100%  0:00 left  [####################]"
  assert texts[4:] == ["train moments: done, computing", ""]


def test_nothing_is_shown_elsewhere(monkeypatch):
  assert shown(monkeypatch, terminal=False) == ""
  assert shown(monkeypatch, terminal=True, term="dumb") == ""
