"""One line on a terminal that says how far a pass has come; nothing elsewhere."""

import os
import shutil
import sys
import time


class ProgressLine:
  """To be written while a `with` block lasts, and wiped away at its end."""

  def __init__(self):
    self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    self._checked = 0
    self._first = self._due = time.monotonic() + 0.5  # what is quick needs no bar

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._show("", now=True)

  def checked(self, size: int):
    self._checked += size
    self._show(f"checking files: {self._checked / 1e9:.1f} GB")

  def watch(self, title: str, batches, total: int):
    """Yields the batches of a pass and shows how many of the `total` examples went by."""
    began, done = time.monotonic(), 0
    for batch in batches:
      yield batch
      done += batch.size
      left = round((time.monotonic() - began) * (total - done) / done)
      bar = "#" * (20 * done // total)
      # What matters most comes first: a narrow terminal shows no more.
      self._show(f"{title} {done / total:4.0%}  {left // 60}:{left % 60:02} left  [{bar:<20}]")
    self._show(f"{title}: done, computing", now=True)

  def _show(self, text: str, now: bool = False):
    time_ = time.monotonic()
    if self._terminal and time_ >= self._first and (now or time_ >= self._due):
      self._due = time_ + 0.1
      width = shutil.get_terminal_size().columns - 1
      print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)
