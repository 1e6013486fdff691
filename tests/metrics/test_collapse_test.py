"""Test collapse against the oracle, and the relations between strong and weak."""

import numpy as np
import oracle
import pytest
import worlds
from moments_test import assert_repeated

import nc_jax as nc

K = worlds.K


def collapse(train, test, **options):
  return nc.test_collapse(*train[:2], *test[:2], num_classes=K, **options)


def pair(std=1.0, **test_options):
  """Train and test of the same classes; the test features are shifted a little."""
  train = worlds.clusters(std=std)
  test = worlds.clusters(std=std, **test_options)
  order = np.random.default_rng(1).permutation(len(test.features))
  features = test.features[order] + 0.1 * np.eye(K, worlds.D, dtype=np.float32)[test.labels[order]]
  return train, test._replace(features=features, labels=test.labels[order])


@pytest.mark.parametrize("std", [1.0, 1e-3])
def test_against_the_oracle(std):
  train, test = pair(std)
  expected = oracle.test_collapse(train[:2], test[:2], K, train.weight, train.bias)
  values = collapse(train, test, weight=train.weight, bias=train.bias)
  assert list(values) == [key for key in nc.METRICS if key in expected]
  assert set(values) == set(expected)
  for key, value in expected.items():
    np.testing.assert_allclose(values[key], value, rtol=2e-5, err_msg=key)


def test_relations():
  train, test = pair(2.0)
  values = collapse(train, test)
  assert values["test/ncc_error"] > 0
  assert values["weak/second_moment"] < values["strong/second_moment"]
  test_moments = nc.ClassMoments.of(*test[:2], K)
  train_scale = nc.metrics.variability.trace_between(nc.ClassMoments.of(*train[:2], K))
  within = nc.metrics.variability.trace_within(test_moments) / train_scale
  np.testing.assert_allclose(
    values["strong/second_moment"], within + values["shift/means"], rtol=1e-5
  )
  assert values["train/second_moment"] == pytest.approx(values["train/nc1/trace_ratio"], rel=1e-6)


def test_weak_equals_strong_without_errors():
  train, test = pair(0.1)
  values = collapse(train, test)
  assert values["test/ncc_error"] == 0
  assert_repeated(values["weak/second_moment"], values["strong/second_moment"])
  for key in ("pinv", "trace_ratio", "cdnv", "vci"):
    assert_repeated(values[f"weak/nc1/{key}"], values[f"strong/nc1/{key}"])


def test_the_train_set_as_test_set():
  train, _ = pair(1.0)
  values = collapse(train, train)
  np.testing.assert_allclose(
    values["strong/second_moment"], values["train/second_moment"], rtol=1e-6
  )
  np.testing.assert_allclose(values["shift/means"], 0, atol=1e-12)  # rounding, squared
  for key in ("pinv", "trace_ratio", "cdnv", "vci"):
    assert_repeated(values[f"strong/nc1/{key}"], values[f"train/nc1/{key}"])


def test_classes_that_one_side_lacks():
  train, test = pair(1.0)
  train = train._replace(labels=np.where(train.labels == 2, 3, train.labels))
  test = test._replace(labels=np.where(test.labels == 5, 6, test.labels))
  expected = oracle.test_collapse(train[:2], test[:2], K)
  values = collapse(train, test)
  for key, value in expected.items():
    np.testing.assert_allclose(values[key], value, rtol=2e-5, err_msg=key)


def test_weak_collapse_onto_wrong_points():
  """Test features exactly on train means, but on the next class's: weak, not strong."""
  means = worlds.simplex(K, worlds.D).astype(np.float32)
  labels = np.arange(worlds.N) % K
  values = nc.test_collapse(means[labels], labels, means[labels], (labels + 1) % K, num_classes=K)
  assert values["weak/second_moment"] == pytest.approx(0, abs=1e-12)
  assert values["test/ncc_error"] == 1
  # The vertices of the simplex are at squared distance 2K/(K − 1), and tr(Σ_B) = 1.
  assert values["strong/second_moment"] == pytest.approx(2 * K / (K - 1), rel=1e-6)
  assert values["shift/means"] == pytest.approx(2 * K / (K - 1), rel=1e-6)


def test_conventions_and_missing_scatter():
  train, test = pair(1.0)
  values = collapse(train, test, scatter=False, within="classes")
  full = collapse(train, test, within="classes")
  assert set(full) - set(values) == {f"{side}/nc1/vci" for side in ("train", "strong", "weak")}
  for key, value in values.items():
    np.testing.assert_allclose(value, full[key], rtol=1e-5, err_msg=key)
  with pytest.raises(ValueError, match="bias needs a weight"):
    collapse(train, test, bias=train.bias)


TRAIN, TEST = (np.zeros((5, 4)), np.zeros(5, int)), (np.zeros((6, 4)), np.zeros(6, int))
WRONG = {
  "width": (
    (*TRAIN, np.zeros((6, 3)), TEST[1]), {},
    r"test_features must have shape \[N, D\] = \[N, 4\]; got \[6, 3\]",
  ),
  "test labels": (
    (*TRAIN, TEST[0], TEST[1] + 2), {}, r"test_labels must lie in \[0, 2\); got 2 at 0",
  ),
  "train labels": (
    (TRAIN[0], TRAIN[1][:4], *TEST), {},
    r"train_labels must have shape \[N\] = \[5\] to match train_features \[5, 4\]",
  ),
  "mask": (
    (*TRAIN, *TEST), {"test_mask": np.ones(5, bool)}, r"test_mask must have shape \[N\] = \[6\]",
  ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_errors_say_which_of_the_two_sets_is_wrong(case):
  data, options, message = WRONG[case]
  with pytest.raises(ValueError, match=message):
    nc.test_collapse(*data, num_classes=2, **options)


def test_moments_of_other_shapes_do_not_compare():
  moments = nc.ClassMoments.of(*TRAIN, 2)
  decisions = nc.decide(*TEST, moments)
  with pytest.raises(ValueError, match=r"must have equal \[K, D\]; got \[2, 4\] and \[1, 4\]"):
    nc.collapse_about(decisions, moments, nc.ClassMoments.of(*TEST, 1))
