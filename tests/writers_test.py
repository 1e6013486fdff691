import glob

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nc_jax import writers

ROWS = [("train", "penultimate", "nc1/pinv", 1 / 3), ("test", "logits", "loss", float("inf"))]


def test_rows_come_back_with_every_bit_and_in_order(tmp_path):
  writer = writers.MetricsWriter(tmp_path, -1)
  writer.write(0, 0, ROWS)
  writer.write(8, 1, [("train", "a", "b", float("nan"))])
  writer.close()
  text = (tmp_path / "metrics.csv").read_text()
  assert text.splitlines()[0] == "step,epoch,split,layer,key,value"
  rows = writers.read_csv(tmp_path / "metrics.csv")
  assert [r["step"] for r in rows] == [0, 0, 8]
  assert rows[0]["key"] == "nc1/pinv"
  assert rows[0]["value"] == pytest.approx(1 / 3, rel=1e-9)
  assert rows[1]["value"] == float("inf") and rows[2]["value"] != rows[2]["value"]


def test_a_run_that_goes_on_cuts_what_came_after_its_checkpoint(tmp_path):
  writer = writers.MetricsWriter(tmp_path, -1)
  for step in (0, 8, 16):
    writer.write(step, step // 8, ROWS)
  writer.close()
  path = tmp_path / "metrics.csv"
  whole = path.read_text()
  path.write_text(whole + "24,3,train,penultimate,nc1/pi")  # torn by a kill
  writers.MetricsWriter(tmp_path, 8).close()
  rows = writers.read_csv(path)
  assert [r["step"] for r in rows] == [0, 0, 8, 8]
  writers.MetricsWriter(tmp_path, -1).close()
  assert path.read_text() == "step,epoch,split,layer,key,value\n"


def test_tensorboard_reads_the_event_files(tmp_path):
  writer = writers.MetricsWriter(tmp_path, -1)
  writer.write(0, 0, ROWS)
  writer.write(8, 1, [("train", "penultimate", "nc1/pinv", 0.25)])
  writer.close()
  writer = writers.MetricsWriter(tmp_path, 0)  # continues after step 0: step 8 comes again
  writer.write(8, 1, [("train", "penultimate", "nc1/pinv", 0.5)])
  writer.close()
  assert len(glob.glob(str(tmp_path / "tensorboard" / "events*"))) == 2
  board = EventAccumulator(str(tmp_path / "tensorboard"))
  board.Reload()
  scalars = [(e.step, e.value) for e in board.Scalars("train/penultimate/nc1/pinv")]
  assert scalars == [(0, pytest.approx(1 / 3)), (8, 0.5)]


def test_a_table_is_replaced_whole_or_not_at_all(tmp_path):
  path = tmp_path / "observed.csv"
  writers.write_csv(path, [(0, 0, "train", "a", "b", "1")])
  before = path.read_text()

  def rows():
    yield (8, 1, "train", "a", "b", "2")
    raise OSError("disk full")

  with pytest.raises(OSError, match="disk full"):
    writers.write_csv(path, rows())
  assert path.read_text() == before
  assert [p.name for p in tmp_path.iterdir()] == ["observed.csv"]
