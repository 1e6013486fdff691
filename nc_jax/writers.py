"""Numbers to disk: metrics.csv in long form, and TensorBoard event files of the same."""

import csv
import io
import pathlib
import time
from collections.abc import Iterable

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from nc_jax.files import append, replacing, telling

COLUMNS = ("step", "epoch", "split", "layer", "key", "value")


def to_text(value: float) -> str:
  """Nine digits hold every bit of a float32."""
  return f"{value:.9g}"


class MetricsWriter:
  """Appends observations to `metrics.csv` and to event files in `tensorboard/`.

  Opened for a run that continues after `last_step`, it first cuts what an interrupted run wrote
  beyond it, a torn last line included, so that no row stands twice. A new run passes -1.
  """

  def __init__(self, workdir: pathlib.Path, last_step: int):
    self._path = workdir / "metrics.csv"
    kept = [row for row in _whole_rows(self._path) if int(row[0]) <= last_step]
    write_csv(self._path, kept)
    self.last_step = int(kept[-1][0]) if kept else -1  # of which there are rows
    self._board = _Board(workdir / "tensorboard", last_step + 1)

  def write(self, step: int, epoch: int, rows: Iterable):
    """Writes rows (split, layer, key, value); they are on disk when this returns, or none is."""
    rows = list(rows)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
      (step, epoch, split, layer, key, to_text(value)) for split, layer, key, value in rows
    )
    append(self._path, text.getvalue().encode())
    self.last_step = step
    self._board.write(step, {f"{split}/{layer}/{key}": value for split, layer, key, value in rows})

  def close(self):
    self._board.close()


class _Board:
  """An event file from `step` on, where TensorBoard forgets what earlier files say.

  Written by the caller's thread: that of tensorboardX's own writer dies silently on a full disk,
  and then lets its caller wait for ever.
  """

  def __init__(self, folder: pathlib.Path, step: int):
    folder.mkdir(exist_ok=True)
    self._folder = folder
    # Event files are named by the second: the step tells apart two of a quick restart.
    with telling(folder):
      self._file = EventsWriter(str(folder / "events"), f".{step}")
      start = SessionLog(status=SessionLog.START)
      self._file.write_event(Event(wall_time=time.time(), step=step, session_log=start))
      self._file.flush()

  def write(self, step: int, values: dict[str, float]):
    summary = Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in values.items()])
    with telling(self._folder):
      self._file.write_event(Event(wall_time=time.time(), step=step, summary=summary))
      self._file.flush()

  def close(self):
    with telling(self._folder):
      self._file.close()


def write_csv(path: pathlib.Path, rows: Iterable[tuple]):
  """Writes a whole table at once, in the place of an earlier one."""
  with replacing(path) as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)


def read_csv(path: pathlib.Path) -> list[dict]:
  """The rows of a table as dicts, with `step`, `epoch` and `value` as numbers."""
  return [
    {
      "step": int(step),
      "epoch": int(epoch),
      "split": split,
      "layer": layer,
      "key": key,
      "value": float(value),
    }
    for step, epoch, split, layer, key, value in _whole_rows(path)
  ]


def _whole_rows(path: pathlib.Path):
  """Rows of a table without its header and without a last line that was torn by a kill."""
  if not path.exists():
    return
  with path.open(newline="") as file:
    lines = (line for line in file if line.endswith("\n"))
    next(lines, None)
    yield from csv.reader(lines)
