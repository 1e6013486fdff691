"""The benchmark as users type it, on sizes that say nothing about speed."""

import csv
import itertools
import json
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nc_jax as nc
from nc_jax import benchmark
from nc_jax.benchmarks import contenders, machine, metrics, sizes, timing
from tests.configs import ROOT

FLAGS = ("--n", "301", "--d", "8", "--k", "3", "--repeats", "3")

NOT_ON_CPUS = "limit/square"


def start(*flags):
  known = {key: value for key, value in os.environ.items() if key != "PJRT_NPROC"}
  return subprocess.Popen(
    [sys.executable, "-m", "nc_jax.benchmark", "metrics", *FLAGS, *flags],
    cwd=ROOT,
    env=known | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """What a plain run and one on two devices, calls in a row, printed, and their folder."""
  folder = tmp_path_factory.mktemp("benchmark")
  one = start("--csv", f"{folder}/one.csv", "--chart", f"{folder}/one.png")
  two = start("--devices=2", "--dtype=bfloat16", "--in_a_row", f"--csv={folder}/two.csv")
  printed = []
  for process in (one, two):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    printed.append(out)
  return *printed, folder


def rows(path):
  """The rows by what; numbers as floats, empty cells as None."""
  with path.open(newline="") as file:
    return {
      row["what"]: {key: number(value) for key, value in row.items()}
      for row in csv.DictReader(file)
    }


def number(text):
  try:
    return float(text) if text else None
  except ValueError:
    return text


def test_the_csv_holds_a_row_for_each_thing_timed_and_the_facts_of_the_run(runs):
  found = rows(runs[2] / "one.csv")
  assert list(found) == [what for what in metrics.WHAT if what in found]
  absent = {"process/rhubarbwu"} if contenders.missing("rhubarbwu") else set()
  assert set(metrics.WHAT) - set(found) == absent | {NOT_ON_CPUS}
  for row in found.values():
    assert (row["n"], row["d"], row["k"]) == (301, 8, 3)
    assert row["jax"] == jax.__version__ and row["dtype"] == "float32"
    assert row["calls"] == "one by one"
    assert row["devices"] == "1 x cpu" and row["date"] and row["machine"] and row["threads"] >= 1


def test_times_are_positive_and_the_rest_follows_from_them(runs):
  found = rows(runs[2] / "one.csv")
  for row in found.values():
    assert 0 < row["min_s"] <= row["median_s"] <= row["max_s"]
    assert row["compile_s"] >= 0 and 1 <= row["runs"] <= 3

  def follows(value):  # six digits are written
    return pytest.approx(value, rel=1e-4)

  for what in ("limit/blas", "limit/read", "accumulate/scatter", "accumulate/traces"):
    row = found[what]
    assert row["x_product"] == follows(row["median_s"] / found["limit/product"]["median_s"])
    assert row["share_of_blas"] == follows(found["limit/blas"]["median_s"] / row["median_s"])
    assert row["share_of_read"] == follows(found["limit/read"]["median_s"] / row["median_s"])
    assert row["gb_per_s"] == follows(301 * 8 * 4 / row["median_s"] / 1e9)
  for what in ("accumulate/batches", "decide", "measure", "report", "process/nc_jax"):
    row = found[what]
    assert row["x_product"] == follows(row["median_s"] / found["limit/again"]["median_s"])
  row = found["accumulate/scatter"]
  assert row["gflop_per_s"] == follows(2 * 301 * 8 * 8 / row["median_s"] / 1e9)
  row = found["decide"]
  assert row["gflop_per_s"] == follows(4 * 301 * 3 * 8 / row["median_s"] / 1e9)


def test_the_library_compiles_in_the_first_call_only(runs):
  found = rows(runs[2] / "one.csv")
  for what in ("accumulate/scatter", "accumulate/batches", "decide", "measure", "report"):
    assert found[what]["compile_s"] > 0 and found[what]["recompiled"] == 0, what


def test_the_process_says_its_memory(runs):
  row = rows(runs[2] / "one.csv")["process/nc_jax"]
  assert row["peak_mib"] > row["data_mib"] > 301 * 8 * 4 / 2**20


def test_only_the_process_named_so_leaves_the_scatter_out(monkeypatch, capsys):
  asked = []
  monkeypatch.setattr(nc, "report", lambda *args, **options: asked.append(options["scatter"]))
  monkeypatch.setattr(jax.config, "update", lambda *setting: None)  # the process's own affair
  for contender in ("nc_jax", "traces"):
    contenders.main(contender, "cpu", "20", "4", "2", "1")
    assert set(asked) == {contender == "nc_jax"}
    assert json.loads(capsys.readouterr().out)["data"] > 20 * 4 * 4
    asked.clear()


def test_the_table_explains_and_shows_every_row(runs):
  one, _, folder = runs
  head = one.splitlines()[0]
  for fact in ("date", "machine", "threads", "1 x cpu", f"jax {jax.__version__}", "float32"):
    assert fact in head
  shown = one.partition("of BLAS")[2]
  for what, meaning in metrics.WHAT.items():
    assert f"{what:20}{meaning}" in one
    assert (what in shown) == (what != NOT_ON_CPUS)
  assert (folder / "one.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_two_devices_share_what_they_can_divide(runs):
  _, two, folder = runs
  found = rows(folder / "two.csv")
  assert "the first 300 examples" in two
  assert found["report"]["devices"] == "2 x cpu" and found["report"]["n"] == 300
  assert found["report"]["dtype"] == "bfloat16" and found["report"]["calls"] == "in a row"
  assert {"accumulate/scatter", "decide", "measure", "limit/product"} < set(found)
  read = found["limit/read"]
  assert read["gb_per_s"] == pytest.approx(300 * 8 * 2 / read["median_s"] / 1e9, rel=1e-4)


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ("", "required: COMMAND"),
    ("scatter", "invalid choice: 'scatter'"),
    ("metrics --sizes=S1,S9", "no size 'S9'; known are S1, S2, S3, S4, S5."),
    ("metrics --n=8", "--n, --d and --k go together; --d and --k missing."),
    ("metrics --n=8 --d=4 --k=1", "--k=1: must be at least 2."),
    ("metrics --n=x --d=4 --k=2", "invalid int value: 'x'"),
    ("metrics --repeats=0", "--repeats=0: must be at least 1."),
    ("metrics --dtype=float16", "invalid choice: 'float16'"),
    ("metrics --size=S1", "--size=S1"),
    ("metrics --csv=no/such/folder.csv", "there is no folder no/such."),
    ("metrics --csv=.", "--csv=. is a folder."),
    ("metrics --csv=/proc/a.csv", "--csv=/proc/a.csv cannot be written: "),
    ("metrics --chart=/proc/a.png", "--chart=/proc/a.png cannot be written: "),
    ("metrics --csv=a.png --chart=./a.png", "--csv=a.png and --chart=a.png are the same file."),
    ("metrics --n=3 --d=4 --k=2", "own: N 3, D 4, K 2: fewer examples than the 4 devices."),
    ("metrics --chart=bars.gif", "must end in .png, .svg or .pdf."),
    ("metrics --devices=99 --sizes=S5", "--devices=99: there are 4 (cpu)."),
  ],
)
def test_a_misunderstanding_is_one_line_that_names_it(arguments, words, capsys, monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
  cache = jax.config.jax_enable_compilation_cache
  try:
    assert benchmark.main(["benchmark", *arguments.split()]) == 2
  finally:
    jax.config.update("jax_enable_compilation_cache", cache)
  err = capsys.readouterr().err
  assert words in err and err.startswith("nc_jax: ") and len(err.splitlines()) == 1


def test_sizes_of_ones_own_join_those_with_names():
  assert [size.name for size in sizes.choose(None, None, None, None)] == list(sizes.SIZES)
  assert sizes.choose("S5", 20, 4, 2) == [sizes.SIZES["S5"], ("own", 20, 4, 2)]


def test_a_size_that_does_not_fit_is_skipped_with_its_reason(monkeypatch):
  devices = jax.devices()[:1]
  monkeypatch.setattr(machine, "free_memory", lambda: 2 * 10**9)
  reason = sizes.too_large(sizes.SIZES["S3"], devices)
  assert reason == "needs about 3.5 GB on host, where 2.0 GB are free."
  assert sizes.too_large(sizes.SIZES["S1"], devices) is None
  monkeypatch.setattr(machine, "free_memory", lambda: None)
  assert sizes.too_large(sizes.SIZES["S3"], devices) is None


def test_where_no_size_fits_nothing_was_measured(monkeypatch, capsys):
  monkeypatch.setattr(jax.config, "update", lambda *setting: None)
  monkeypatch.setattr(machine, "free_memory", lambda: 0)
  assert benchmark.main(["benchmark", "metrics", "--sizes=S1,S5"]) == 1
  out, err = capsys.readouterr()
  assert out.count("skipped: ") == 2
  assert err == "nc_jax: nothing was measured: no size fits into memory.\n"


def test_calls_take_turns_and_slow_rounds_are_fewer():
  order = []
  cases = {name: lambda name=name: (order.append(name), time.sleep(0.02)) for name in "ab"}
  timings = timing.interleave(cases, repeats=3, budget=60)
  assert order == ["a", "b"] * 4  # the first round warms up
  assert len(timings["a"].samples) == 3 and timings["a"].median >= 0.02
  order.clear()
  timings = timing.interleave(cases, repeats=3, budget=0.01)
  assert order == ["a", "b"] and len(timings["b"].samples) == 1


def test_of_calls_in_a_row_the_last_is_waited_for(monkeypatch):
  waited, numbers = [], itertools.count()
  monkeypatch.setattr(jax, "block_until_ready", waited.append)
  cases = {"a": lambda: (time.sleep(0.002), next(numbers))[1]}
  timings = timing.interleave(cases, repeats=2, budget=60, in_a_row=True)
  assert waited[-1] == next(numbers) - 1 and len(waited) == 4  # 2 before, and one a sample
  assert 0.002 <= timings["a"].median < timing.SAMPLE  # of one call
  timing.interleave(cases, repeats=2, budget=60)
  assert len(waited) > 4 + 4


def test_compilation_is_told_apart_and_recompilation_counted():
  sizes = itertools.count(3)
  cases = {
    "steady": lambda: jax.jit(jnp.cosh)(jnp.ones(2)),
    "growing": lambda: jax.jit(jnp.sinh)(np.ones((next(sizes), 400000), np.float32)),
  }
  timings = timing.interleave(cases, repeats=2, budget=60)
  assert timings["steady"].compiling > 0 and timings["steady"].recompiled == 0
  assert timings["growing"].recompiled >= 2


def test_numpy_computes_what_the_library_does():
  features, labels, _, _ = contenders.examples(500, 12, 4)
  means, spread, scatter = contenders.two_passes(features, labels, 4)
  moments = nc.ClassMoments.of(features, labels, 4)
  np.testing.assert_allclose(moments.class_means, means, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(moments.spread, spread, rtol=1e-4)
  np.testing.assert_allclose(moments.scatter, scatter, rtol=1e-4, atol=1e-4)
