"""Probes and intervals of a run: from the same features as its metrics."""

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

import nc_jax as nc
from nc_jax.errors import UserError
from nc_jax.training import building, probes, resampling
from tests.configs import tiny

OPTIONS = {
  "data__label_map": ("halves",),
  "data__test_size": 97,  # no multiple of anything
  "probe__target": "fine",
  "probe__ridge": (1e-3, 1e-1),
  "probe__epochs": (2,),
  "observe__bootstrap": 50,
  "observe__bootstrap_nc1": True,
  "observe__bootstrap_ranks": True,
}


@pytest.fixture(scope="module")
def experiment():
  return building.build(tiny(**OPTIONS))


@pytest.fixture(scope="module")
def rows(experiment):
  return observed(experiment, epoch=4)


def observe(experiment, epoch):
  ((_, observation),) = experiment.observe(experiment.state, epoch)
  return observation


def observed(experiment, epoch):
  return {row[:3]: row.value for row in observe(experiment, epoch).rows}


def features(experiment, split, layer="penultimate"):
  """Features and fine labels, in the order of the split."""
  collected = experiment.measurer._collector(
    experiment.state.variables, experiment.observed.probed[("train", "test").index(split)]
  )
  return np.asarray(collected.layers[layer])[collected.order], collected.labels[collected.order]


def test_every_example_is_collected_once_with_its_label(experiment, rows):
  data = experiment.dataset
  for split in ("train", "test"):
    x, fine = features(experiment, split)
    assert len(x) == len(getattr(data, split))
    np.testing.assert_array_equal(fine, getattr(data, split).fine)
    report = nc.report(x, (fine >= 5).astype(np.int32), num_classes=2)
    for key in ("nc1/trace_ratio", "nc2/equinorm_means", "norm/features"):
      assert rows[split, "penultimate", key] == pytest.approx(report[key], rel=1e-4, abs=1e-6)


def test_probes_of_every_layer_learn_the_fine_labels(experiment, rows):
  for layer in ("layer1", "penultimate"):
    (x, y), (queries, truth) = (features(experiment, s, layer) for s in ("train", "test"))
    scaler = StandardScaler().fit(np.float64(x))
    for penalty in (1e-3, 1e-1):
      ridge = RidgeClassifier(alpha=penalty * len(x)).fit(scaler.transform(np.float64(x)), y)
      expected = np.mean(ridge.predict(scaler.transform(np.float64(queries))) == truth)
      assert rows["test", layer, f"probe/fine/ridge/{penalty:g}"] == pytest.approx(expected)
    for key in ("logistic/0.001", "knn/5"):
      assert 0.2 < rows["test", layer, f"probe/fine/{key}"] <= 1
  data = experiment.dataset
  named = [np.bincount(data.train.fine[data.train.labels == j]).argmax() for j in (0, 1)]
  ceiling = np.mean(np.take(named, data.test.labels) == data.test.fine)
  assert rows["test", "layer1", "probe/fine/ceiling"] == pytest.approx(ceiling)


def test_intervals_are_those_of_the_run_s_features(experiment, rows):
  bounded = [place for place in rows if (*place[:2], f"{place[2]}/low") in rows]
  assert {(split, key) for split, _, key in bounded} >= {
    ("train", "nc1/trace_ratio"), ("test", "nc1/trace_ratio"), ("train", "error/classifier"),
    ("test", "error/classifier"), ("test", "weak/second_moment"), ("test", "strong/second_moment"),
    ("test", "probe/fine/ridge/0.001"),
  }  # fmt: skip
  assert ("train", "layer1", "rank/numerical") in bounded
  assert {key for split, layer, key in bounded if (split, layer) == ("test", "layer1")} == {
    "nc1/pinv", "nc1/trace_ratio", "nc1/cdnv", "nc1/vci", "nc4/ncc_error",
    "strong/second_moment", "weak/second_moment", "probe/fine/ridge/0.001", "probe/fine/ridge/0.1",
    "probe/fine/logistic/0.001", "probe/fine/knn/5", "probe/fine/ceiling",
  }  # fmt: skip
  for split, layer, key in bounded:
    low, high = (rows[split, layer, f"{key}/{end}"] for end in ("low", "high"))
    assert low <= high
    if not key.startswith(("nc1", "rank")):
      assert low <= rows[split, layer, key] <= high
      continue
    x, fine = features(experiment, split, layer)
    measure, coarse = resampling._MEASURES[True, True], (fine >= 5).astype(int)
    resampled = nc.metrics.metric_replicates(
      measure, x, coarse, 2, 50, split == "test", pivotal=True
    )[key]
    most = x.shape[1] if key.startswith("rank") else np.inf
    assert (low, high) == pytest.approx(nc.metrics.interval(np.minimum(resampled, most)), rel=1e-3)


def test_errors_of_the_nearest_class_mean_are_bounded_about_the_value(experiment, rows):
  low, high = (rows["train", "layer1", f"nc4/ncc_error/{end}"] for end in ("low", "high"))
  assert 0 < low < rows["train", "layer1", "nc4/ncc_error"] < high < 0.6


def test_probes_come_at_their_epochs_and_all_replicates_at_the_last(experiment, rows):
  """At others there are those that whatever is read along training is made of."""
  along = {
    ("train", "layer1", "nc1/trace_ratio"), ("test", "layer1", "nc1/trace_ratio"),
    ("train", "layer1", "nc4/ncc_error"), ("test", "layer1", "nc4/ncc_error"),
    ("test", "layer1", "strong/second_moment"), ("test", "layer1", "weak/second_moment"),
  }  # fmt: skip
  along |= {(split, "penultimate", key) for split, _, key in along}
  along |= {("train", "penultimate", f"nc1/{key}") for key in ("pinv", "cdnv", "vci")}
  along |= {(split, "logits", "error/classifier") for split in ("train", "test")}
  for epoch, probed in ((1, False), (2, True)):
    observation = observe(experiment, epoch)
    of_probes = {place for place in observation.replicates if place[2].startswith("probe/")}
    assert set(observation.replicates) - of_probes == along
    assert (
      bool(of_probes) == probed == ("probe/fine/knn/5" in {row.key for row in observation.rows})
    )
  assert {(*place[:2], f"{place[2]}/low") for place in along} < set(rows)


def test_replicates_of_a_split_belong_together(experiment):
  """Those of two numbers of the same examples move together, in any order of the layers."""
  observation = observe(experiment, epoch=4)
  probe, worse = (
    observation.replicates["test", "penultimate", f"probe/fine/{kind}"]
    for kind in ("ridge/0.001", "ridge/0.1")
  )
  assert probe.shape == (50,)
  assert np.corrcoef(probe, worse)[0, 1] > 0.5


def test_held_out_classes_are_probed_by_labels_of_their_own():
  held_out = {"data__held_out": (7, 8, 9), "data__train_size": 256, "probe__target": "held_out"}
  experiment = building.build(tiny(**held_out, data__balance=True))
  assert experiment.dataset.num_classes == 7
  train, test = experiment.observed.probed
  assert len(train.split) == 75 and set(train.split.labels) == {0, 1, 2}
  rows = observed(experiment, epoch=4)
  assert 1 / 3 < rows["test", "penultimate", "probe/held_out/ridge/0.001"] <= 1
  assert ("test", "penultimate", "probe/held_out/ceiling") not in rows


def test_all_of_nc1_along_training_is_asked_for_apart(experiment):
  frugal = building.build(tiny(**OPTIONS | {"observe__bootstrap_nc1": None}))
  fewer = observe(experiment, 1).replicates.keys() - observe(frugal, 1).replicates.keys()
  assert fewer == {("train", "penultimate", f"nc1/{key}") for key in ("pinv", "cdnv", "vci")}
  assert not any(
    key.startswith("nc1/") and key != "nc1/trace_ratio"
    for *_, key in observe(frugal, 4).replicates
  )


def test_ranks_are_asked_for_apart(experiment):
  frugal = building.build(tiny(**OPTIONS | {"observe__bootstrap_ranks": None}))
  fewer = observe(experiment, 4).replicates.keys() - observe(frugal, 4).replicates.keys()
  layers = experiment.measurer.observer.layers
  assert len(layers) > 1
  assert fewer == {("train", layer, "rank/numerical") for layer in layers}
  alone = building.build(tiny(**OPTIONS | {"observe__bootstrap_nc1": None}))
  of = lambda built: observe(built, 4).replicates["train", "layer1", "rank/numerical"]
  np.testing.assert_array_equal(of(alone), of(experiment))


@pytest.mark.parametrize("what", ["bootstrap_nc1", "bootstrap_ranks"])
def test_replicates_of_something_need_a_bootstrap(what):
  with pytest.raises(UserError, match=f"{what} = True, but config.observe.bootstrap is None"):
    building.build(tiny(**{f"observe__{what}": True}))


def test_some_kinds_of_probes_come_at_the_last_layer_alone():
  everything = {"ridge", "logistic", "knn", "ceiling"}
  for kinds in (("ridge",), ()):
    frugal = building.build(tiny(**OPTIONS, probe__every_layer=kinds))
    found = {row[:3] for row in observe(frugal, 2).rows if row.key.startswith("probe/fine/")}
    of = lambda layer, found=found: {key.split("/")[2] for _, where, key in found if where == layer}
    assert of("layer1") == {*kinds, "ceiling"} and of("penultimate") == everything


def test_probes_that_cannot_be_are_refused():
  with pytest.raises(UserError, match="'held_out', but config.data.held_out holds no class"):
    building.build(tiny(probe__target="held_out"))
  empty = {"data__train_size": 30, "data__test_size": 4, "data__held_out": (7, 8)}
  with pytest.raises(UserError, match=r"class '[78]' of config.data.held_out has no test example"):
    building.build(tiny(probe__target="held_out", **empty))
  with pytest.raises(UserError, match=r"config.probe.epochs holds 3, which is not observed"):
    building.build(tiny(probe__target="fine", observe__epochs=(1,), probe__epochs=(3,)))


def test_a_probe_that_did_not_converge_says_so_in_a_row(experiment, monkeypatch):
  def probe(*args, **kwargs):
    found = whole(*args, **kwargs)
    found["logistic/0.001"] = found["logistic/0.001"]._replace(converged=False)
    return found

  whole = probes.probe
  monkeypatch.setattr(probes, "probe", probe)
  said = [place for place in observed(experiment, epoch=2) if place[2].endswith("/unconverged")]
  assert [place[2] for place in said] == ["probe/fine/logistic/0.001/unconverged"] * 2
