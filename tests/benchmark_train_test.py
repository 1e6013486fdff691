"""The benchmark of training as users type it, on a network that says nothing about speed."""

import csv
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nc_jax import benchmark
from nc_jax.benchmarks import train
from nc_jax.benchmarks.flops import flops
from nc_jax.training import building, loop
from tests import configs

CONFIG = f"--config={configs.ROOT}/configs/digits.py"
TINY = tuple(f"--config.{key}={value}" for key, value in configs.TINY.items())
NUMBERS = {  # the cells that each row fills besides times
  "limit/product": {"gflop_per_s"},
  "step": {"examples_per_s", "gflop", "gflop_per_s", "share_of_product", "input_share"},
  "step/repeated": {"examples_per_s", "gflop", "gflop_per_s", "share_of_product"},
  "observation": {"examples_per_s", "epochs"},
}


@pytest.fixture(autouse=True)
def unchanged_cache():
  """The benchmark turns JAX's compilation cache off, as it must in a process of its own."""
  before = jax.config.jax_enable_compilation_cache
  yield
  jax.config.update("jax_enable_compilation_cache", before)


@pytest.fixture(scope="module")
def experiment():
  return building.build(configs.tiny())


def test_the_command_prints_and_writes_every_row(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(train, "WINDOW", 0.01)
  monkeypatch.setitem(train.SIDE, "cpu", 32)
  path = tmp_path / "rows.csv"
  short = ("--config.observe.layers=()", "--config.observe.max_scatter_dim=0")
  arguments = (CONFIG, *TINY, *short, "--repeats=3", f"--csv={path}")
  assert benchmark.main(["benchmark", "train", *arguments]) == 0
  printed = capsys.readouterr().out
  with path.open(newline="") as file:
    rows = {row["what"]: row for row in csv.DictReader(file)}
  assert list(rows) == list(train.WHAT) == list(NUMBERS)
  for what, row in rows.items():
    assert f"  {what:15}{train.WHAT[what]}" in printed and f"\n{what:15} " in printed
    assert float(row["min_s"]) <= float(row["median_s"]) <= float(row["max_s"])
    assert float(row["compile_s"]) > 0 and row["recompiled"] == "0" and row["runs"] == "3"
    for name in ("examples_per_s", "gflop", "gflop_per_s", "share_of_product", "input_share",
                 "epochs"):  # fmt: skip
      assert np.isfinite(float(row[name])) if name in NUMBERS[what] else row[name] == "", name
    assert row["devices"] == f"{jax.device_count()} x cpu" and row["model"] == "mlp"
    assert row["config"].endswith("digits.py " + " ".join((*TINY, *short)))
    assert (row["batch_size"], row["steps_per_epoch"], row["steps_per_call"]) == ("16", "8", "8")

  follows = lambda value: pytest.approx(value, rel=1e-4)  # six digits are written
  step, repeated, product, look = (
    {key: float(rows[what][key] or "nan") for key in ("median_s", *set.union(*NUMBERS.values()))}
    for what in ("step", "step/repeated", "limit/product", "observation")
  )
  assert step["examples_per_s"] == follows(16 / step["median_s"])
  assert step["gflop_per_s"] == follows(step["gflop"] / step["median_s"])
  assert step["share_of_product"] == follows(step["gflop_per_s"] / product["gflop_per_s"])
  share = 1 - repeated["median_s"] / step["median_s"]
  assert step["input_share"] == pytest.approx(share, abs=1e-4)
  assert f"input side   {100 * step['input_share']:.1f} % of a step" in printed
  assert look["epochs"] == follows(look["median_s"] / (8 * step["median_s"]))
  assert look["examples_per_s"] == follows((128 + 96) / look["median_s"])


def test_training_goes_on_from_call_to_call(experiment):
  training, batches = train.Training(experiment), train.fed(experiment)
  sums = training.run(batches, 2)
  assert int(training.state.step) == 16 and sums["loss"].shape == (8,)
  training.run(batches, 4)  # beyond the last of four epochs
  assert int(training.state.step) == 48


def test_batches_are_those_of_the_loop_but_for_shorter_calls():
  config = configs.tiny(optim__steps_per_call=3)  # eight steps: calls of 3, 3 and 2
  uneven = building.build(config)
  expected = [index for index in loop.calls(uneven, 0) if len(index) == 3]
  assert len(expected) == 8
  found = itertools.islice(train.fed(uneven), 9)
  for (*_, index), same in zip(found, expected + expected[:1], strict=True):
    np.testing.assert_array_equal(index, same)


@pytest.mark.parametrize("axis", [None, 0])
def test_a_placed_batch_lies_where_the_program_wants_it(axis):
  devices = jax.device_count()
  images, labels = np.ones((devices, 6, 2, 2, 1), np.uint8), np.ones((devices, 6), np.int32)
  index = np.arange(2 * devices * 3, dtype=np.int32).reshape(2, devices, 3)
  *examples, placed = train.placed((images, labels, index), axis)
  np.testing.assert_array_equal(placed, index)
  assert [shard.data.shape for shard in placed.addressable_shards] == [(2, 1, 3)] * devices
  if axis is None:
    assert examples[0] is images and examples[1] is labels
  else:
    assert {shard.data.shape for shard in examples[0].addressable_shards} == {(1, 6, 2, 2, 1)}


def test_the_work_of_a_perceptron_s_step_is_counted_as_by_hand():
  config = configs.tiny(model__width=48, data__batch_size=32)
  built = building.build(config)
  feed, width, batch = built.feeds["train"], 48, 32
  for index in (next(loop.calls(built, 0)), next(loop.calls(built, 0))[:1]):
    work = flops(built.program, built.state, *feed(index)) / len(index) * jax.device_count()
    # Forward, and backward by weights and inputs, but not by the images.
    by_hand = 2 * batch * (2 * 100 * width + 3 * width * width + 3 * width * 10)
    assert work == by_hand
    weights = sum(leaf.size for leaf in jax.tree.leaves(built.state.params))
    assert work == pytest.approx(3 * 2 * weights * batch, rel=0.25)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_work_of_convolutions_is_what_xla_counts(stride):
  def loss(kernels, maps):
    for kernel in kernels:
      maps = jax.lax.conv_general_dilated(
        maps, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
      )
    return jnp.sum(maps**2)

  step, kernels, images = jax.grad(loss), [jnp.ones((3, 3, 8, 8))] * 2, jnp.ones((4, 32, 32, 8))
  xla = jax.jit(step).lower(kernels, images).cost_analysis()["flops"]
  assert xla < flops(step, kernels, images) < 1.1 * xla  # which leaves out what meets padding


def test_loops_count_as_often_as_they_run_and_of_branches_the_larger():
  x = jnp.ones((4, 4))
  once = 2 * 4 * 4 * 4
  assert flops(lambda x: jax.lax.fori_loop(0, 5, lambda _, y: y @ x, x), x) == 5 * once
  branches = (lambda x: x, lambda x: x @ x, lambda x: x @ x @ x)
  assert flops(lambda x: jax.lax.switch(2, branches, x), x) == 2 * once
  assert flops(lambda x, i: jax.lax.switch(i, branches, x), x, 0) == 2 * once


def test_what_is_not_installed_is_asked_for(capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "nc_jax.benchmarks.train", None)
  assert benchmark.main(["benchmark", "train", CONFIG]) == 2
  assert "train needs pip install -e '.[train]'" in capsys.readouterr().err
  with pytest.raises(SystemExit, match="0"):
    benchmark.main(["benchmark", "metrics", "--help"])


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ((), "--config=FILE is missing"),
    (("--config=no/such.py",), "there is no file no/such.py"),
    ((f"{CONFIG}:huge",), "unknown variant 'huge'; choose base"),
    ((CONFIG, "--config.optim.peak_lrr=1"), "Did you mean optim.peak_lr?"),
    ((CONFIG, "--config.model.width=none"), "model.width = none, but must be a whole number"),
    ((CONFIG, "--config.data.batch_size=9999"), "exceeds the 1500 train examples"),
    ((CONFIG, "--repeat=3"), "unrecognized arguments: --repeat=3. See"),
    ((CONFIG, "more"), "'more' is not understood"),
    ((CONFIG, "--repeats=0"), "--repeats=0: must be at least 1."),
    ((CONFIG, "--csv=no/such/folder.csv"), "there is no folder no/such."),
    ((CONFIG, "--devices=2"), "--devices=2: training uses all 4 that JAX sees"),
    ((CONFIG, "--devices=99"), "--devices=99: there are 4 (cpu)."),
  ],
)
def test_a_misunderstanding_is_one_line_that_names_it(arguments, words, capsys):
  assert benchmark.main(["benchmark", "train", *arguments]) == 2
  err = capsys.readouterr().err
  assert words in err and err.startswith("nc_jax: ") and len(err.splitlines()) == 1, err
