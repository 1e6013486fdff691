"""Whole runs, in this process: what a run leaves behind, and that stopping changes nothing."""

import itertools
import os
import signal

import jax
import numpy as np
import pytest

from nc_jax import writers
from nc_jax.console import Console
from nc_jax.errors import RunError, UserError
from nc_jax.training import building, checkpoints, loop
from tests.configs import tiny


def run(config, workdir, console=None):
  experiment = building.build(config)
  workdir.mkdir(exist_ok=True)
  console = console or Console(config.optim.total_epochs, experiment.steps_per_epoch)
  loop.train(experiment, workdir, console)
  return experiment


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  """An unbroken tiny run: (experiment, workdir)."""
  workdir = tmp_path_factory.mktemp("unbroken")
  return run(tiny(), workdir), workdir


def table(workdir):
  return (workdir / "metrics.csv").read_text()


def test_every_epoch_split_and_layer_is_there_in_order(unbroken):
  _, workdir = unbroken
  rows = writers.read_csv(workdir / "metrics.csv")
  places = list(dict.fromkeys((r["epoch"], r["split"], r["layer"]) for r in rows))
  assert places == [
    (epoch, split, layer)
    for epoch in (0, 1, 2, 3, 4)
    for split in ("train", "test")
    for layer in ("layer1", "penultimate", "logits")
  ]
  assert all(r["step"] == 8 * r["epoch"] for r in rows)
  keys = [(r["epoch"], r["split"], r["layer"], r["key"]) for r in rows]
  assert len(keys) == len(set(keys))
  of = lambda split, layer: {r["key"] for r in rows if (r["split"], r["layer"]) == (split, layer)}
  core = {"nc1/pinv", "nc1/trace_ratio", "nc1/cdnv", "nc1/vci", "nc2/etf_means", "nc4/ncc_error"}
  headed = {"nc2/etf_weights", "nc3/self_duality", "nc4/ncc_mismatch", "error/classifier"}
  about_train = {"weak/second_moment", "strong/second_moment", "shift/means", "test/ncc_error"}
  assert core <= of("train", "layer1") and not headed & of("train", "layer1")
  assert core | headed <= of("train", "penultimate")
  assert core | headed | about_train <= of("test", "penultimate")
  assert of("train", "logits") == {"loss", "error/classifier"}
  assert all(np.isfinite(r["value"]) for r in rows)


def test_the_head_that_nc4_sees_is_the_network_s(unbroken):
  rows = writers.read_csv(unbroken[1] / "metrics.csv")
  errors = lambda layer: [
    r["value"] for r in rows if r["layer"] == layer and r["key"] == "error/classifier"
  ]
  assert errors("penultimate") == errors("logits")


def test_the_same_config_gives_the_same_table_byte_for_byte(unbroken, tmp_path):
  run(tiny(), tmp_path)
  assert table(tmp_path) == table(unbroken[1])


def test_an_experiment_can_be_trained_again(unbroken, tmp_path):
  experiment, workdir = unbroken
  loop.train(experiment, tmp_path, Console(4, experiment.steps_per_epoch))
  assert table(tmp_path) == table(workdir)


def test_a_streamed_set_gives_the_table_of_a_resident_one(unbroken, tmp_path):
  run(tiny(data__device_budget_mib=0.0), tmp_path)
  assert table(tmp_path) == table(unbroken[1])


class StopsAt(Console):
  """Sends this process a signal once a step is reached, as a scheduler would."""

  def __init__(self, step, signum):
    super().__init__(4, 8)
    self._stop_at, self._signum = step, signum

  def trained(self, step, loss):
    super().trained(step, loss)
    if self._stop_at is not None and step >= self._stop_at:
      self._stop_at = None
      os.kill(os.getpid(), self._signum)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("at", [3, 8, 21])
def test_a_stopped_run_goes_on_to_the_same_table(unbroken, tmp_path, at, signum):
  config = tiny(optim__steps_per_call=3)  # so that it can stop within an epoch
  with pytest.raises(loop.Stopped, match=f"Stopped by {signum.name} in epoch"):
    run(config, tmp_path, StopsAt(at, signum))
  kept = checkpoints.Checkpoints(tmp_path)
  assert at <= kept.steps()[-1] <= at + 6  # soon, and saved
  assert signal.getsignal(signum) not in (None, signal.SIG_IGN)
  run(config, tmp_path)
  whole = tmp_path.with_name("whole")
  run(config, whole)
  assert table(tmp_path) == table(whole)
  # Cutting an epoch into other calls rounds differently at most.
  np.testing.assert_allclose(
    [r["value"] for r in writers.read_csv(whole / "metrics.csv")],
    [r["value"] for r in writers.read_csv(unbroken[1] / "metrics.csv")],
    rtol=2e-3, atol=1e-5,
  )  # fmt: skip


@pytest.mark.parametrize("call", [1, 4, 8])
def test_an_observation_that_a_signal_breaks_off_is_made_when_the_run_goes_on(
  unbroken, tmp_path, monkeypatch, call
):
  """Each of the five observations calls the program of the first pass twice: train and test."""
  experiment, calls = building.build(tiny()), itertools.count()
  fold = experiment.observer._fold

  def fold_and_signal(*arguments):
    if next(calls) == call:
      os.kill(os.getpid(), signal.SIGTERM)
    return fold(*arguments)

  monkeypatch.setattr(experiment.observer, "_fold", fold_and_signal)
  step = call // 2 * 8
  with pytest.raises(loop.Stopped, match=rf"SIGTERM in epoch {call // 2} \(step {step}\)"):
    loop.train(experiment, tmp_path, Console(4, 8, quiet=True))
  assert next(calls) == call + 1  # nothing was done after the signal
  assert checkpoints.Checkpoints(tmp_path).steps()[-1] == step
  assert {r["step"] for r in writers.read_csv(tmp_path / "metrics.csv")} == set(range(0, step, 8))
  run(tiny(), tmp_path)
  assert table(tmp_path) == table(unbroken[1])


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_state(tmp_path):
  with pytest.raises(
    RunError, match=r"The loss is (nan|inf) at step \d+, epoch \d; (the last good|nothing)"
  ):
    run(tiny(optim__peak_lr=1e18, loss__name="squared_error", model__batch_norm=False), tmp_path)
  kept = checkpoints.Checkpoints(tmp_path)
  for step in kept.steps():
    kept.restore(step, like=building.build(tiny(model__batch_norm=False)).state)


def test_what_data_and_devices_do_not_allow_is_refused():
  for changes, words in (
    ({"data__batch_size": 129}, "config.data.batch_size = 129 exceeds the 128 train examples"),
    ({"data__batch_size": 18}, "batch_size = 18 does not divide over 4 devices"),
    (
      {"optim__accumulate": 3},
      "optim.accumulate = 3 does not divide the 4 examples that each device takes of config.data",
    ),
    (
      {"optim__accumulate": 2, "loss__name": "supervised_contrastive"},
      "accumulate = 2, but must be None: config.loss.name = 'supervised_contrastive' compares all",
    ),
    ({"observe__epochs": (1, 9)}, "config.observe.epochs holds 9, but training ends at 4"),
    ({"observe__layers": ("layer3",)}, "'layer3'; the network taps layer1, penultimate"),
  ):
    with pytest.raises(UserError, match=words):
      building.build(tiny(**changes))


def test_observed_epochs_scale_with_the_run():
  assert building.epochs_to_observe(None, 3) == (0, 1, 2, 3)
  grid = building.epochs_to_observe(None, 300)
  assert grid[:22] == (*range(21), 22) and grid[-1] == 300
  ratios = np.array(grid[30:]) / np.array(grid[29:-1])
  assert 1.05 < ratios.min() and ratios.max() < 1.15
  assert building.epochs_to_observe((5, 7), 10) == (0, 5, 7, 10)


def test_training_visits_every_example_once_an_epoch_but_for_a_rest_below_a_batch():
  experiment = building.build(tiny(data__train_size=130))
  ids = np.concatenate([index.ravel() for index in loop.calls(experiment, 0)])
  assert experiment.steps_per_epoch == 8 and len(ids) == 4 * 128
  for epoch in ids.reshape(4, 128):
    assert len(set(epoch)) == 128
  # A run that goes on takes up the sequence where it broke off, within an epoch too.
  rest = np.concatenate([index.ravel() for index in loop.calls(experiment, 11)])
  np.testing.assert_array_equal(rest, ids[11 * 16 :])


def test_a_call_takes_several_short_epochs_but_none_that_is_observed_or_saved():
  config = tiny(
    optim__total_epochs=40,
    optim__steps_per_call=64,  # eight epochs
    observe__epochs=(20,),
    checkpoint__every_epochs=15,
  )
  experiment = building.build(config)
  calls = list(loop.calls(experiment, 0))
  ends = np.cumsum([len(index) for index in calls]) // 8
  assert ends.tolist() == [8, *range(9, 21), 28, 29, 30, 38, 39, 40]
  one_by_one = [experiment.epoch_index(epoch) for epoch in range(40)]
  np.testing.assert_array_equal(np.concatenate(calls), np.concatenate(one_by_one))
  for begin in (20 * 8, 30 * 8):  # a run that goes on makes the same calls
    rest = [len(index) for index in loop.calls(experiment, begin)]
    assert rest == [len(index) for index in calls][-len(rest) :]


def test_the_state_does_not_depend_on_the_devices():
  state = building.build(tiny()).state
  assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state))
