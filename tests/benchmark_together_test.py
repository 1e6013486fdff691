"""The benchmark of runs trained together as users type it, on a network that says nothing."""

import csv
import os
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nc_jax import benchmark
from nc_jax.benchmarks import jobs, machine, together
from nc_jax.benchmarks.timing import Timing
from nc_jax.errors import RunError
from nc_jax.training import together as training
from tests import configs

CONFIG = f"--config={configs.ROOT}/configs/digits.py"
SHORT = ("--config.observe.layers=()", "--config.observe.max_scatter_dim=0")
TINY = tuple(f"--config.{key}={value}" for key, value in configs.TINY.items()) + SHORT
RATIOS = {  # the cells that each row fills besides times
  "limit/devices": {"of_alone"},
  "step/alone": {"examples_per_s"},
  "step": {"examples_per_s", "of_alone", "limit", "epoch_of_alone", "job_of_alone"},
  "observation/alone": {"examples_per_s"},
  "observation": {"examples_per_s", "of_alone"},
}


@pytest.fixture(autouse=True)
def short(monkeypatch):
  """Short samples; and JAX's compilation cache, which the benchmark turns off, back on."""
  monkeypatch.setattr(together, "WINDOW", 0.01)
  monkeypatch.setattr(jobs, "LINKS", 10)
  before = jax.config.jax_enable_compilation_cache
  yield
  jax.config.update("jax_enable_compilation_cache", before)


@pytest.fixture(scope="module")
def six():
  """Six runs, over four devices."""
  return together.build(configs.tiny(observe__epochs=(1, 2)), 6)


def read(path):
  with path.open(newline="") as file:
    return {(int(row["together"]), row["what"]): row for row in csv.DictReader(file)}


def test_the_command_prints_and_writes_every_row(tmp_path, capsys):
  path = tmp_path / "rows.csv"
  arguments = (CONFIG, *TINY, "--runs=1,5", "--repeats=3", f"--csv={path}")
  assert benchmark.main(["benchmark", "together", *arguments]) == 0
  printed = capsys.readouterr().out
  rows = read(path)
  assert list(rows) == [(size, what) for size in (1, 5) for what in together.WHAT]
  assert list(together.WHAT) == list(RATIOS)
  for (size, what), row in rows.items():
    assert f"  {what:18}{together.WHAT[what]}" in printed and f"\n{what:18}{size:>5} " in printed
    assert 0 < float(row["min_s"]) <= float(row["median_s"]) <= float(row["max_s"])
    assert float(row["compile_s"]) > 0 and row["recompiled"] == "0" and row["runs"] == "3"
    for name in set.union(*RATIOS.values()):
      assert float(row[name]) > 0 if name in RATIOS[what] else row[name] == "", (what, name)
    spread = {
      "step": min(size, jax.device_count()),
      "limit/devices": min(size, jax.device_count()),
      "observation": len(training.observing_devices(size)),
    }
    assert row["devices_used"] == str(spread.get(what, 1))
    assert row["devices"] == f"{jax.device_count()} x cpu" and row["model"] == "mlp"
    assert row["config"].endswith("digits.py " + " ".join(TINY))
    assert (row["batch_size"], row["steps_per_epoch"], row["steps_per_call"]) == ("16", "8", "8")
  median = {place: float(row["median_s"]) for place, row in rows.items()}
  ratio = float(rows[5, "step"]["of_alone"])
  follows = pytest.approx(median[5, "step"] / (5 * median[5, "step/alone"]), rel=1e-4)
  assert ratio == follows  # six digits are written
  assert f"5 together: a step {ratio:.2f} (limit 0.40; the machine gave" in printed


def test_on_an_accelerator_the_run_alone_takes_its_turns_in_the_same_process(
  tmp_path, capsys, monkeypatch
):
  def refuse(*_):
    raise AssertionError("one process at a time may hold it")

  accelerator = types.SimpleNamespace(platform="tpu", device_kind="TPU v9")
  monkeypatch.setattr(machine, "devices", lambda _: [accelerator])
  monkeypatch.setattr(jobs, "Remote", refuse)
  path = tmp_path / "rows.csv"
  arguments = (CONFIG, *TINY, "--runs=2", "--repeats=1", f"--csv={path}")
  assert benchmark.main(["benchmark", "together", *arguments]) == 0
  row = read(path)[2, "step/alone"]
  assert float(row["compile_s"]) > 0 and row["devices"] == "1 x TPU v9"
  one = together.alone_here(configs.tiny())
  assert len(one.runs) == 1 and len(one.devices) == 1  # of the four of these tests
  weights = sum(leaf.size for leaf in jax.tree.leaves(one.state.params))
  assert row["parameters"] == str(weights)
  assert "1 run" in capsys.readouterr().out


def test_the_runs_are_the_config_with_seeds_that_follow_its_own():
  cohort = together.build(configs.tiny(seed=7), 3)
  assert [run.config.seed for run in cohort.runs] == [7, 8, 9]
  assert {run.config.optim.peak_lr for run in cohort.runs} == {0.05}
  first = jax.tree.leaves(cohort.state.params)[-1]
  assert not np.array_equal(first[0], first[1])


def test_ratios_follow_from_the_seconds(six):
  seconds = {  # of a call: eight steps
    "limit/device": [0.1],
    "limit/devices": [0.12],
    "step/alone": [8 * 0.002, 8 * 0.001, 8 * 0.009],
    "step": [8 * 0.006, 8 * 0.004, 8 * 0.030],
    "observation/alone": [0.02],
    "observation": [0.18],
  }
  timings = {what: Timing(samples, 1.5, 0) for what, samples in seconds.items()}
  rows = {row.what: row for row in together.rows_of(six, timings)}
  step, alone = rows["step"], rows["step/alone"]
  assert (step.median_s, step.min_s, step.max_s) == pytest.approx((0.006, 0.004, 0.030))
  assert (step.runs, step.devices_used, step.compile_s) == (3, 4, 1.5)
  assert step.of_alone == pytest.approx(0.006 / (6 * 0.002))
  assert step.limit == pytest.approx(2 / 6)  # a device holds two of the six
  assert rows["limit/devices"].of_alone == pytest.approx(0.12 / (4 * 0.1))
  assert (step.examples_per_s, alone.examples_per_s) == pytest.approx((6 * 16 / 0.006, 16 / 0.002))
  look, one_look = rows["observation"], rows["observation/alone"]
  assert look.of_alone == pytest.approx(0.18 / (6 * 0.02))
  examples = 128 + 96
  assert look.examples_per_s == pytest.approx(6 * examples / 0.18)
  assert one_look.examples_per_s == pytest.approx(examples / 0.02)
  epoch = (8 * 0.006 + 0.18) / (6 * (8 * 0.002 + 0.02))
  assert step.epoch_of_alone == pytest.approx(epoch)
  # Four epochs of eight steps; observed at 0, 1, 2 and 4.
  job = (32 * 0.006 + 4 * 0.18) / (6 * (32 * 0.002 + 4 * 0.02))
  assert step.job_of_alone == pytest.approx(job)
  assert together.conclude(list(rows.values())).splitlines()[-1] == (
    f"   6 together: a step 0.50 (limit 0.33; the machine gave 0.30), an epoch and one observation "
    f"{epoch:.2f}, all epochs and observations {job:.2f}"
  )


@pytest.mark.parametrize(
  ("size", "devices", "share"), [(1, 1, 1), (4, 2, 1 / 2), (3, 2, 2 / 3), (8, 8, 1 / 8)]
)
def test_the_limit_is_the_share_of_the_fullest_device(size, devices, share):
  assert together.limit(size, devices) == pytest.approx(share)


def test_samples_are_as_long_as_the_window_whatever_a_call_takes(monkeypatch):
  monkeypatch.setattr(together, "WINDOW", 0.05)
  asked = {"quick": set(), "slow": set()}

  class Fake:
    compiling, recompiled = {"step": 2.0}, {"step": 3}

    def __init__(self, name, seconds):
      self.name, self.seconds = name, {"step": seconds}

    def __call__(self, what, times):
      asked[self.name].add((what, times))

  cases = {"quick": Fake("quick", 0.001), "slow": Fake("slow", 1.0)}
  timings = together.in_turns("step", cases, repeats=2)
  assert asked == {"quick": {("step", 50)}, "slow": {("step", 2)}}
  assert [len(timing.samples) for timing in timings.values()] == [2, 2]
  assert all(timing[1:] == (2.0, 3) for timing in timings.values())


def test_a_job_tells_what_compiled_later_from_the_first_call():
  shapes = iter([4, 4, 5, 5])
  program = jax.jit(lambda x: jnp.sin(x) + len(x))
  inputs = {size: np.ones(size, np.float32) for size in (4, 5)}
  next_size = {"size": 4}
  job = jobs.Job({"step": lambda times: program(inputs[next_size["size"]])})
  assert job.compiling["step"] > 0 and job.recompiled == {"step": 0}
  for expected in (0, 0, 1, 1):
    next_size["size"] = next(shapes)
    job("step", 1)
    assert job.recompiled == {"step": expected}


def test_a_run_alone_has_one_device_and_otherwise_the_same_environment():
  flags = "--xla_a=1 --xla_force_host_platform_device_count=4 --xla_b=2"
  environment = {"XLA_FLAGS": flags, "JAX_NUM_CPU_DEVICES": "4", "PJRT_NPROC": "8", "HOME": "/"}
  given = jobs.of_one_device(environment)
  assert given.pop("XLA_FLAGS").split() == ["--xla_a=1", "--xla_b=2"]
  assert given == {"PJRT_NPROC": "8", "HOME": "/"}
  assert environment["XLA_FLAGS"] == flags


def test_a_process_that_dies_leaves_its_last_words(monkeypatch):
  monkeypatch.setattr(jobs, "__name__", "no.such.module")
  with pytest.raises(RunError, match="process of the run alone ended with 1: .*No module named"):
    jobs.Remote([], dict(os.environ))


def test_help_lists_the_flags(capsys):
  with pytest.raises(SystemExit, match="0"):
    benchmark.main(["benchmark", "together", "--help"])
  out = capsys.readouterr().out
  assert "--runs R,R" in out and "--repeats" in out and "--devices" not in out
  assert "one run as" in out


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ((), "--config=FILE is missing"),
    (("--config=no/such.py",), "there is no file no/such.py"),
    ((CONFIG, "--runs=0"), "--runs=0: must be at least 1."),
    ((CONFIG, "--runs=4,-1"), "--runs=4,-1: must be at least 1."),
    ((CONFIG, "--runs=a"), "--runs=a: 'a' is not a whole number; write --runs=1,2,4."),
    ((CONFIG, "--runs=1,"), "--runs=1,: '' is not a whole number"),
    ((CONFIG, "--config.data.batch_size=9999"), "exceeds the 1500 train examples"),
    ((CONFIG, "--repeats=0"), "--repeats=0: must be at least 1."),
    ((CONFIG, "--csv=no/such/folder.csv"), "there is no folder no/such."),
    ((CONFIG, "--config.optim.peak_lrr=1"), "Did you mean optim.peak_lr?"),
    ((CONFIG, "--devices=2"), "unrecognized arguments: --devices=2. See"),
  ],
)
def test_a_misunderstanding_is_one_line_that_names_it(arguments, words, capsys):
  assert benchmark.main(["benchmark", "together", *arguments]) == 2
  err = capsys.readouterr().err
  assert words in err and err.startswith("nc_jax: ") and len(err.splitlines()) == 1, err


def test_numbers_of_runs_are_taken_once_each_in_the_order_given():
  assert together.numbers("4,1,4, 2") == [4, 1, 2]
