"""Numbers to disk: metrics.csv in long form, and TensorBoard event files of the same."""

import csv
import logging
import os
import pathlib
from collections.abc import Iterable

from tensorboardX import SummaryWriter

from nc_jax.files import replacing

# A metric that is nan or inf is written as such, without a warning between the progress lines.
logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)

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
    path = workdir / "metrics.csv"
    write_csv(path, (row for row in _whole_rows(path) if int(row[0]) <= last_step))
    self._file = path.open("a", newline="")
    self._csv = csv.writer(self._file, lineterminator="\n")
    # Event files are named by the second: the step tells apart two of a quick restart.
    self._board = SummaryWriter(
      str(workdir / "tensorboard"),
      purge_step=last_step + 1,
      filename_suffix=f".{last_step + 1}",
    )

  def write(self, step: int, epoch: int, rows: Iterable):
    """Writes rows (split, layer, key, value); they are on disk when this returns."""
    for split, layer, key, value in rows:
      self._csv.writerow((step, epoch, split, layer, key, to_text(value)))
      self._board.add_scalar(f"{split}/{layer}/{key}", value, step)
    self._file.flush()
    os.fsync(self._file.fileno())
    self._board.flush()

  def close(self):
    self._file.close()
    self._board.close()


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
