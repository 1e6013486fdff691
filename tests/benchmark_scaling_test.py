"""The benchmark of weak scaling as users type it, on a network that says nothing about speed."""

import csv

import jax
import pytest

from nc_jax import benchmark
from nc_jax.benchmarks import jobs, machine, scaling, together
from nc_jax.benchmarks.timing import Timing
from tests import configs

CONFIG = f"--config={configs.ROOT}/configs/digits.py"
TINY = tuple(f"--config.{key}={value}" for key, value in configs.TINY.items())


@pytest.fixture(autouse=True)
def short(monkeypatch):
  """Short samples, a core for each device; the compilation cache, turned off, back on."""
  monkeypatch.setattr(together, "WINDOW", 0.01)
  monkeypatch.setattr(jobs, "LINKS", 10)
  monkeypatch.setitem(scaling.ROWS, "cpu", 64)
  monkeypatch.setattr(machine, "cores", lambda: 4)
  before = jax.config.jax_enable_compilation_cache
  yield
  jax.config.update("jax_enable_compilation_cache", before)


def test_the_command_prints_writes_and_draws_every_row(tmp_path, capsys):
  path, chart = tmp_path / "rows.csv", tmp_path / "chart.svg"
  arguments = (CONFIG, *TINY, "--repeats=3", f"--csv={path}", f"--chart={chart}")
  assert benchmark.main(["benchmark", "scaling", *arguments]) == 0
  printed = capsys.readouterr().out
  with path.open(newline="") as file:
    rows = {(row["what"], int(row["devices_used"])): row for row in csv.DictReader(file)}
  assert list(rows) == [(what, number) for what in scaling.WHAT for number in (1, 2, 4)]
  follows = lambda value: pytest.approx(value, rel=1e-4)  # six digits are written
  for (what, number), row in rows.items():
    assert f"\n{what:15}{number:>8} " in printed and f"  {what:15}{scaling.WHAT[what]}" in printed
    assert 0 < float(row["min_s"]) <= float(row["median_s"]) <= float(row["max_s"])
    assert float(row["compile_s"]) > 0 and row["recompiled"] == "0" and row["runs"] == "3"
    one = float(rows[what, 1]["median_s"])
    assert float(row["efficiency"]) == follows(one / float(row["median_s"]))
    each = {"step": 4, "step/apart": 4, "accumulate": 64}.get(what)  # a batch of 16 on four
    if each is None:
      assert row["examples_per_s"] == row["ideal_per_s"] == ""
    else:
      assert float(row["examples_per_s"]) == follows(number * each / float(row["median_s"]))
      assert float(row["ideal_per_s"]) == follows(number * each / one)
    if what == "step":
      apart = float(rows["step/apart", number]["median_s"])
      share = 1 - apart / float(row["median_s"])
      assert float(row["averaging"]) == pytest.approx(share, abs=1e-4)
  assert (row["batch_per_device"], row["rows_per_device"], row["devices"]) == ("4", "64", "4 x cpu")
  assert "Virtual devices: 4 share 4 cores" in printed
  assert "\n   2 devices: a step " in printed and "\n   4 devices: a step " in printed
  assert "accumulate" in chart.read_text()


def test_efficiency_is_the_time_of_one_over_that_of_many():
  timings = {1: Timing([0.1, 0.1, 0.3], 1.0, 0), 2: Timing([0.2, 0.125, 0.1], 1.0, 0)}
  one, two = scaling.rows_of("step", timings, 50)
  assert (one.efficiency, two.efficiency) == pytest.approx((1, 0.8))
  assert (two.examples_per_s, two.ideal_per_s) == pytest.approx((100 / 0.125, 2 * 50 / 0.1))


def test_numbers_of_devices_double_up_to_all():
  assert [scaling.counts(n) for n in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_there_are_never_more_virtual_devices_than_cores(monkeypatch):
  monkeypatch.setattr(machine, "cores", lambda: 2)
  assert len(scaling.these(None)) == 2 and len(scaling.these(1)) == 1


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ((), "--config=FILE is missing"),
    ((CONFIG, "--devices=5"), "--devices=5: there are 4 (cpu)."),
    ((CONFIG, "--config.data.batch_size=18"), "batch_size = 18 does not divide over 4 devices"),
    ((CONFIG, "--chart=lines.gif"), "must end in .png, .svg or .pdf."),
    ((CONFIG, "--repeats=0"), "--repeats=0: must be at least 1."),
  ],
)
def test_a_misunderstanding_is_one_line_that_names_it(arguments, words, capsys):
  assert benchmark.main(["benchmark", "scaling", *arguments]) == 2
  err = capsys.readouterr().err
  assert words in err and err.startswith("nc_jax: ") and len(err.splitlines()) == 1, err
