"""NC1 where the algebra is hard: graded means, singular noise, ranks and cuts."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import worlds

import nc_jax as nc
from nc_jax.metrics import variability

K, D, N = 20, 32, 2000


@pytest.mark.parametrize("condition", [1e1, 1e2, 1e3, 1e4])
def test_pinv_keeps_the_small_directions_of_the_means(condition):
  # Catalogue 3.3: a dense pseudo-inverse is off by a factor 100 at condition 1e3.
  rng = np.random.default_rng(0)
  left, right = worlds.rotation(K, 1)[:, : K - 1], worlds.rotation(D, 2)[: K - 1]
  means = (left * np.geomspace(1, 1 / condition, K - 1)) @ right + 10
  labels = np.arange(N) % K
  features = np.float32(means[labels] + 1e-3 * rng.normal(size=(N, D)))
  exact = features.astype(np.float64)
  mean = oracle.class_moments(exact, labels, K)[1]
  inverse = np.linalg.pinv(mean - mean.mean(0), rcond=1e-9)  # of M, not of Σ_B
  expected = (((exact - mean[labels]) @ inverse) ** 2).sum() / N
  value = variability.pinv_ratio(nc.ClassMoments.of(features, labels, K))
  # The entries of M are rounded to 6e-8 of its largest direction, 6e-8 · condition of the least.
  np.testing.assert_allclose(value, expected, rtol=2e-6 + 1e-8 * condition)


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**-11, 2.0**11, 2.0**16])  # exact in float32
def test_vci_knows_no_scale_of_a_unit(factor):
  rng = np.random.default_rng(0)
  labels = np.arange(280) % 7
  features = np.float32(rng.normal(size=(7, 20))[labels] + 0.3 * rng.normal(size=(280, 20)))
  features[:, 3] = 0  # a unit that never fires
  expected = variability.vci(nc.ClassMoments.of(features, labels, 7))
  features[:, 0] *= factor
  value = variability.vci(nc.ClassMoments.of(features, labels, 7))
  np.testing.assert_allclose(value, expected, rtol=1e-6)


def relu_layer(orders):
  """Features [2000, 128] of a layer whose units lie so many orders of magnitude apart; labels."""
  rng = np.random.default_rng(0)
  labels = np.arange(2000) % 10
  features = rng.normal(size=(10, 128))[labels] + 1.5 * rng.normal(size=(2000, 128))
  return np.float32(np.maximum(features, 0) * np.logspace(-orders, 0, 128)), labels


def literal_vci(features, labels):
  """1 − tr(Σ_T⁺ Σ_B) / (K − 1) in float64, on scaled features: of these it is the same."""
  features = features / np.where(features.std(0) > 0, features.std(0), 1)
  num_classes = labels.max() + 1
  means = np.stack([features[labels == k].mean(0) for k in range(num_classes)])
  between = (means - means.mean(0)) / np.sqrt(num_classes)
  within = (features - means[labels]) / np.sqrt(len(features))
  _, values, rows = np.linalg.svd(np.concatenate([within, between]), full_matrices=False)
  kept = values > 1e-10 * values[0]
  return 1 - ((between @ rows[kept].T / values[kept]) ** 2).sum() / (num_classes - 1)


SINGULAR = {
  "regular": lambda x, y: x,
  "a unit twice": lambda x, y: np.c_[x, x[:, 5]],
  "a dead unit": lambda x, y: np.c_[x, 0 * x[:, 0]],
  "a unit of one class, always the same": lambda x, y: np.c_[x, 0.01 * (y == 3)],
  "two units of one example": lambda x, y: np.c_[x, np.eye(len(x), 2)[:, [0, 0]]],
  "fewer examples than units": lambda x, y: x[:100],
}


@pytest.mark.parametrize("orders", [0, 3, 6])
@pytest.mark.parametrize("kind", SINGULAR)
def test_vci_of_units_of_all_sizes(kind, orders):
  """One unit that makes Σ_W singular must not cost the small ones their precision."""
  features, labels = relu_layer(orders)
  features = np.float32(SINGULAR[kind](features, labels))
  labels = labels[: len(features)]
  expected = literal_vci(features.astype(np.float64), labels)
  value = variability.vci(nc.ClassMoments.of(features, labels, 10))
  np.testing.assert_allclose(value, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("orders", [0, 3])
@pytest.mark.parametrize("kind", ["regular", "a unit twice", "a dead unit"])
def test_the_gradient_of_vci_of_units_of_all_sizes(kind, orders):
  features, labels = relu_layer(orders)
  direction = np.random.default_rng(1).normal(size=features.shape) * features.std(0)
  features, direction = (SINGULAR[kind](x, labels) for x in (features, direction))
  exact, step = features.astype(np.float64), 1e-4
  ahead, behind = (literal_vci(exact + s * direction, labels) for s in (step, -step))
  moments_of = lambda x: nc.ClassMoments.of(x, labels, 10)
  gradient = jax.grad(lambda x: variability.vci(moments_of(x)))(jnp.asarray(features))
  slope = np.vdot(np.asarray(gradient, np.float64), direction)
  size = np.linalg.norm(np.asarray(gradient, np.float64) * direction)
  assert abs(slope - (ahead - behind) / (2 * step)) < 1e-3 * size


@pytest.mark.parametrize("condition, rtol", [(1e2, 2e-5), (1e4, 1e-3)])
def test_vci_of_uneven_noise(condition, rtol):
  # The Schur complement subtracts: the relative error grows with the condition of Σ_W.
  rng = np.random.default_rng(0)
  scales = np.geomspace(1, condition**-0.5, D) * 1e-2
  labels = np.arange(N) % K
  noise = (rng.normal(size=(N, D)) * scales) @ worlds.rotation(D)
  features = np.float32(rng.normal(size=(K, D))[labels] + noise)
  expected = oracle.measure(features, labels, K)["nc1/vci"]
  value = variability.vci(nc.ClassMoments.of(features, labels, K))
  np.testing.assert_allclose(value, expected, rtol=rtol)


@pytest.mark.parametrize("dead", ["coordinates", "copies", "examples"])
@pytest.mark.parametrize("dim", [D, 16])  # more dimensions than classes, and fewer
def test_vci_of_singular_noise(dead, dim):
  """Dead ReLU units, units that copy others, or fewer examples than dimensions.

  Where the means fill the rest, the complement of their span holds nothing but rounding.
  """
  rng = np.random.default_rng(0)
  size = N if dead != "examples" else 24
  labels = np.arange(size) % K
  features = rng.normal(size=(K, dim))[labels] + 0.1 * rng.normal(size=(size, dim))
  if dead != "examples":  # exact in float32, unlike a rotated subspace
    features[:, :4] = 0 if dead == "coordinates" else features[:, 4:8]
  features = np.float32(features)
  moments = nc.ClassMoments.of(features, labels, K)
  assert np.linalg.matrix_rank(np.asarray(moments.scatter, np.float64), tol=1e-3) < dim
  expected = oracle.measure(features, labels, K)["nc1/vci"]
  np.testing.assert_allclose(variability.vci(moments), expected, rtol=1e-4, atol=1e-6)


def test_pinv_bounds_vci():
  # Catalogue 2.1: C pinv >= Σ 1/k_i, and r VCI = Σ 1/(1 + k_i) <= Σ 1/k_i.
  world = worlds.clusters(std=1.0)
  moments = nc.ClassMoments.of(*world[:2], worlds.K)
  pinv, vci = variability.pinv_ratio(moments), variability.vci(moments)
  assert worlds.K * pinv >= (worlds.K - 1) * vci


def test_the_rank_stays_below_the_number_of_classes():
  world = worlds.clusters(missing=(1, 2))
  moments = nc.ClassMoments.of(*world[:2], worlds.K)
  for options in ({}, {"global_mean": "samples"}, {"between": "samples"}):
    assert variability.between_rank(moments, **options) == worlds.K - 3
  flat = world.features * (np.arange(worlds.D) < 2)
  moments = nc.ClassMoments.of(np.float32(flat), world.labels, worlds.K)
  assert variability.between_rank(moments) == 2


def test_means_within_rounding_of_each_other_have_no_rank():
  rng = np.random.default_rng(0)
  noise = rng.normal(size=(N // 2, D))
  features = np.float32(np.concatenate([noise, -noise]) + 5)  # all means 5, up to rounding
  labels = np.tile(np.arange(N // 2) % K, 2)
  moments = nc.ClassMoments.of(features, labels, K)
  assert variability.between_rank(moments) == 0
  assert np.isnan(variability.pinv_ratio(moments)) and np.isnan(variability.vci(moments))


def test_missing_scatter_is_said():
  moments = nc.ClassMoments.empty(3, 4, scatter=False)
  for metric in (variability.pinv_ratio, variability.vci):
    with pytest.raises(ValueError, match="made with scatter=False"):
      metric(moments)
  with pytest.raises(ValueError, match="ranks need the .* scatter"):
    nc.measure(moments, ranks=True)


def test_single_metrics_equal_the_report():
  world = worlds.clusters(missing=(3,))
  moments = nc.ClassMoments.of(*world[:2], worlds.K)
  values = nc.measure(moments, nc.Head(world.weight, world.bias))
  singles = {
    "nc1/pinv": variability.pinv_ratio,
    "nc1/vci": variability.vci,
    "nc1/cdnv": variability.cdnv,
    "nc1/trace_ratio": variability.trace_ratio,
    "trace/within": variability.trace_within,
  }
  for key, metric in singles.items():
    np.testing.assert_allclose(metric(moments), values[key], rtol=1e-6, err_msg=key)


def test_large_and_small_units_do_not_overflow():
  world = worlds.clusters()
  moments = nc.ClassMoments.of(*world[:2], worlds.K)
  for scale in (1e-8, 1e8):
    scaled = nc.ClassMoments.of(world.features * np.float32(scale), world.labels, worlds.K)
    for metric in (variability.pinv_ratio, variability.vci, variability.cdnv):
      np.testing.assert_allclose(metric(scaled), metric(moments), rtol=1e-5)


def test_noise_of_one_direction_counts_where_the_means_lie():
  """Two classes on the x axis: noise along x costs all, noise along y nothing."""
  means = np.array([[1.0, 0], [-1, 0]], np.float32)
  labels = np.array([0, 0, 1, 1])
  signs = np.array([1, -1, 1, -1], np.float32)[:, None]
  for direction, expected in (([1, 0], 0.25), ([0, 1], 0.0)):
    features = means[labels] + 0.5 * signs * np.float32(direction)
    moments = nc.ClassMoments.of(features, labels, 2)
    # Σ_W = 0.25 along the direction, Σ_B = 1 along x: pinv 0.25/C, VCI 0.25/1.25.
    assert variability.pinv_ratio(moments) == pytest.approx(expected / 2)
    assert variability.vci(moments) == pytest.approx(expected / 1.25 if expected else 0)


@pytest.mark.parametrize("apart", [1e-2, 1e-4, 1e-5])
def test_cdnv_of_classes_far_closer_to_each_other_than_to_the_rest(apart):
  world = worlds.siblings(apart)
  count, mean, spread, _ = oracle.class_moments(*world[:2], world.num_classes)
  v = spread / count
  apart = np.sum((mean[:, None] - mean) ** 2, axis=2)
  pairs = ~np.eye(world.num_classes, dtype=bool)
  expected = ((v[:, None] + v) / 2)[pairs] / apart[pairs]
  given = variability.cdnv(nc.ClassMoments.of(*world[:2], world.num_classes))
  np.testing.assert_allclose(given, expected.mean(), rtol=1e-5)


def test_decisions_that_cannot_be_about_these_moments_are_refused():
  world = worlds.clusters()
  moments = nc.ClassMoments.of(*world[:2], worlds.K, scatter=False)
  fewer = moments.relabel(np.arange(worlds.K) // 2)
  decisions = nc.decide(world.features, world.labels // 2, fewer)
  with pytest.raises(ValueError, match="decisions are about K = 4 classes, the moments hold K = 7"):
    nc.measure(moments, None, decisions)


def test_decisions_about_the_examples_twice_or_about_a_share_of_them():
  world = worlds.clusters(size=4000, std=1.0)
  moments = nc.ClassMoments.of(*world[:2], worlds.K, scatter=False)
  once = nc.decide(*world[:2], moments)
  some = nc.decide(world.features[:2000], world.labels[:2000], moments)
  pinv = nc.measure(moments, None, once)["nc1/pinv"]
  for decisions, rtol in ((once.merge(once), 1e-6), (some, 0.1)):
    given = nc.measure(moments, None, decisions)["nc1/pinv"]
    np.testing.assert_allclose(given, pinv, rtol=rtol)


def test_more_examples_than_int32_counts():
  world = worlds.clusters()
  moments = nc.ClassMoments.of(*world[:2], worlds.K)
  expected = nc.measure(moments, ranks=True)
  many = moments
  while np.asarray(many.count).sum(dtype=np.int64) < 2**31:
    many = nc.merge(many, many)
  assert (np.asarray(many.count) > 0).all()
  for key, value in nc.measure(many, ranks=True).items():
    np.testing.assert_allclose(value, expected[key], rtol=1e-5, err_msg=key)
