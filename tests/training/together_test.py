"""Runs trained together are the runs that they would be alone."""

import numpy as np
import pytest

from nc_jax import settings, writers
from nc_jax.console import Console
from nc_jax.errors import RunError, UserError
from nc_jax.training import building, loop, together
from tests.configs import tiny

KEYS = ("loss", "error/classifier", "nc1/trace_ratio", "weak/second_moment", "nc2/etf_weights")


def train(configs, workdir, folders=None):
  folders = folders or [f"run{number}" for number in range(len(configs))]
  cohort = together.build(folders, configs)
  console = Console(cohort.config.optim.total_epochs, cohort.steps_per_epoch)
  workdir.mkdir(exist_ok=True)
  loop.train(cohort, workdir, console)
  return [table(workdir / folder) for folder in folders]


def alone(config, workdir):
  experiment = building.build(config)
  workdir.mkdir()
  loop.train(experiment, workdir, Console(4, experiment.steps_per_epoch))
  return table(workdir)


def table(workdir):
  rows = writers.read_csv(workdir / "metrics.csv")
  return {tuple(row[k] for k in ("epoch", "split", "layer", "key")): row["value"] for row in rows}


def close(a, b):
  """Rounding differs, and grows as a network is trained."""
  assert a.keys() == b.keys()
  for place in a:
    if place[3] in KEYS:
      atol = 0.05 if place[3] == "error/classifier" else 1e-4
      assert a[place] == pytest.approx(b[place], rel=0.02, abs=atol), place


CASES = {
  # More runs than the four devices, so that some hold two; another number than fills them.
  "seeds": [{"seed": seed} for seed in range(6)],
  "rates": [
    {"optim__peak_lr": rate, "optim__weight_decay": decay}
    for rate in (0.05, 0.01)
    for decay in (5e-3, 0.0)
  ],
  "losses": [{"loss__name": "focal", "loss__gamma": gamma} for gamma in (0.0, 1.0, 2.0)],
  "one": [{"seed": 3}],
  "augmented": [{"seed": seed, "data__augment": True} for seed in (1, 2)],
  "accumulated": [{"seed": seed, "optim__accumulate": 2} for seed in (1, 2)],
  "streamed": [{"seed": seed, "data__device_budget_mib": 0.0} for seed in (1, 2)],
  "convolutions": [
    {"seed": seed, "model__name": "convnet", "model__width": 4} for seed in range(5)
  ],
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_run_is_what_it_is_alone(case, tmp_path):
  configs = [tiny(**changes) for changes in CASES[case]]
  tables = train(configs, tmp_path / "together")
  for number in {0, len(configs) - 1}:
    close(tables[number], alone(configs[number], tmp_path / f"alone{number}"))
  if len(configs) > 1:
    V = {t[4, "train", "penultimate", "nc1/trace_ratio"] for t in tables}
    assert len(V) == len(configs)


class Stops(Console):
  def trained(self, step, loss):
    super().trained(step, loss)
    if step >= 11:
      raise KeyboardInterrupt


def test_an_interrupted_cohort_goes_on_to_the_same_tables(tmp_path):
  configs = [tiny(seed=seed) for seed in range(3)]
  whole = train(configs, tmp_path / "whole")
  cohort = together.build(["run0", "run1", "run2"], configs)
  broken = tmp_path / "broken"
  broken.mkdir()
  with pytest.raises(KeyboardInterrupt):
    loop.train(cohort, broken, Stops(4, cohort.steps_per_epoch))
  assert max(place[0] for place in table(broken / "run2")) < 4
  assert train(configs, broken) == whole


def test_a_run_that_fails_is_given_up_and_the_others_go_on(tmp_path):
  changes = {"loss__name": "squared_error", "model__batch_norm": False}
  configs = [tiny(optim__peak_lr=rate, **changes) for rate in (0.01, 1e18, 0.02)]
  good, bad, other = train(configs, tmp_path / "runs")
  why = (tmp_path / "runs" / "run1" / "failed.txt").read_text()
  assert why.startswith("The loss is ") and " at step " in why
  assert max(place[0] for place in bad) < 4
  assert not (tmp_path / "runs" / "run0" / "failed.txt").exists()
  for number, own in ((0, good), (2, other)):
    close(own, alone(configs[number], tmp_path / f"alone{number}"))
  with pytest.raises(RunError, match="The loss is (nan|inf) at step"):
    train(configs[1:2] * 2, tmp_path / "none")


def test_what_cannot_be_trained_together_is_told_apart():
  shape = lambda **changes: together.shape_of(tiny(**changes))
  assert shape() == shape(seed=5, optim__peak_lr=0.3, optim__weight_decay=0.0)
  for changes in ({"model__width": 25}, {"data__train_size": 64}, {"optim__schedule": "cosine"},
                  {"loss__name": "focal"}):  # fmt: skip
    assert shape() != shape(**changes)
  focal = {"loss__name": "focal"}
  assert shape(**focal, loss__gamma=1.0) == shape(**focal, loss__gamma=2.0) != shape(**focal)


def test_class_sizes_that_differ_are_refused_where_the_loss_looks_at_them():
  build = lambda **changes: together.build(["a", "b"], [tiny(seed=s, **changes) for s in (0, 1)])
  with pytest.raises(UserError, match="'vs' looks at class sizes, which differ"):
    build(loss__name="vs")  # the digits of each class are drawn
  with pytest.raises(UserError, match="batch_size = 129 exceeds the 128 train examples"):
    build(data__batch_size=129)


def test_every_varied_setting_exists():
  assert set(together.VARIED) <= set(settings.SETTINGS)


def test_runs_whose_data_differ_in_size_are_told_apart_when_the_data_are_there():
  configs = [tiny(seed=seed, data__held_out=(0, 1)) for seed in (0, 1)]
  with pytest.raises(together.Apart, match=r"different sizes, \d+ train and \d+ test examples and"):
    together.build(["a", "b"], configs)


def test_a_run_whose_last_step_before_a_save_overflows_is_given_up_alone(tmp_path, monkeypatch):
  """The losses of its epoch are finite: only the parameters that the save would keep are not."""
  configs = [tiny(seed=seed, optim__total_epochs=2) for seed in range(3)]
  fine = together.Cohort.losses
  monkeypatch.setattr(together.Cohort, "losses", lambda self, sums: np.ones_like(fine(self, sums)))
  configs[1] = tiny(seed=1, optim__total_epochs=2, optim__peak_lr=1e30)
  good, bad, other = train(configs, tmp_path / "runs")
  why = (tmp_path / "runs" / "run1" / "failed.txt").read_text()
  assert why == "A parameter is not finite after step 8, epoch 1.\n"
  assert max(place[0] for place in good) == max(place[0] for place in other) == 2
  assert max(place[0] for place in bad) == 1


def test_on_a_cpu_runs_are_observed_on_one_device_by_a_thread_a_core(monkeypatch):
  monkeypatch.setattr(together.os, "cpu_count", lambda: 3)
  cohort = together.build(list("abcd"), [tiny(seed=seed) for seed in range(4)])
  assert len(cohort.measurers) == 3 and len(set(map(id, cohort.measurers))) == 1
  assert len({device for measurer in cohort.measurers for device in measurer.devices}) == 1
