"""Replicates over examples: against a literal bootstrap, and how intervals cover a known world."""

import math

import numpy as np
import pytest
import worlds
from moments_test import assert_repeated

import nc_jax as nc
from nc_jax.metrics import bootstrap, spectrum, variability
from nc_jax.metrics.bootstrap import interval, mean_replicates, metric_replicates

K, D, N = worlds.K, worlds.D, worlds.N


V = "nc1/trace_ratio"


def of_moments(moments):
  """Metrics with and without scatter, and one that is no number of classes."""
  values = variability.nc1(moments)
  if moments.scatter is not None:
    values["rank/numerical"] = spectrum.ranks(moments)["rank/numerical"]
  return values


def literal(features, labels, replicates, seed=0, scatter=True):
  """Metrics of features that are resampled indeed, one replicate after the other, {key: [R]}."""
  draws = np.random.default_rng(seed)
  found = []
  for _ in range(replicates):
    index = draws.integers(len(labels), size=len(labels))
    moments = nc.ClassMoments.of(features[index], labels[index], K, scatter=scatter)
    found.append({key: float(value) for key, value in of_moments(moments).items()})
  return {key: np.array([values[key] for values in found]) for key in found[0]}


def trace_ratios(features, labels, num_classes, *args, **options):
  """[R] V alone, without a scatter."""
  return metric_replicates(
    variability.nc1, features, labels, num_classes, *args, **options, scatter=False
  )[V]


@pytest.mark.parametrize("scatter", [True, False])
@pytest.mark.parametrize(
  "options",
  [
    {"std": 1.0},
    {"std": 1e-3},
    {"std": 1e-3, "offset": 100.0},
    {"std": 1.0, "single": (2,), "missing": (4,)},  # the single one is often not drawn
  ],
  ids=str,
)
def test_replicates_against_a_literal_bootstrap(options, scatter):
  features, labels = worlds.clusters(**options)[:2]
  ours = metric_replicates(of_moments, features, labels, K, 12, seed=3, scatter=scatter)
  theirs = literal(features, labels, 12, seed=3, scatter=scatter)
  assert set(ours) == set(theirs) >= ({V, "nc1/cdnv", "nc1/pinv"} if scatter else {V, "nc1/cdnv"})
  for key in theirs:
    np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-4, err_msg=key)


def test_accelerators_get_the_scatter_that_blas_gives():
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(60, 9)).astype(np.float32)
  weights = rng.poisson(1, size=(5, 60)).astype(np.float32)
  weights[0] = 0
  expected = np.einsum("rn,nd,ne->rde", *map(np.float64, (weights, rows, rows)))
  for of in (bootstrap._grams, bootstrap._grams_on_device):
    np.testing.assert_allclose(of(rows, weights), expected, atol=1e-4)


def test_pivotal_replicates_lie_as_far_on_the_other_side():
  features, labels = worlds.clusters()[:2]
  found, pivotal = (trace_ratios(features, labels, K, 41, pivotal=p) for p in (False, True))
  ratio = float(variability.trace_ratio(nc.ClassMoments.of(features, labels, K)))
  np.testing.assert_allclose(found / ratio, ratio / pivotal, rtol=2e-5)


def test_an_interval_ends_at_the_replicates_that_bound_its_level():
  values = np.random.default_rng(0).permutation(41).astype(float)
  assert interval(values, level=0.9) == (2, 38)
  assert interval([*values, math.nan, math.nan], level=0.9) == (2, 38)
  assert interval([1, 2, math.inf], level=0.9) == (1, math.inf)
  assert np.isnan(interval([math.nan])).all() and np.isnan(interval([])).all()


def test_blocks_of_replicates_change_nothing(monkeypatch):
  features, labels = worlds.clusters()[:2]
  both = lambda: np.stack([trace_ratios(features, labels, K), mean_replicates(labels == 0)])
  whole = both()
  monkeypatch.setattr(bootstrap, "BLOCK", 7 * N)
  np.testing.assert_allclose(both(), whole, rtol=2e-6)  # BLAS rounds by the shape


def test_deterministic_in_the_seed():
  features, labels = worlds.clusters()[:2]
  for replicates in (
    lambda seed: trace_ratios(features, labels, K, 20, seed),
    lambda seed: mean_replicates(features[:, 0], 20, seed),
  ):
    assert_repeated(replicates(1), replicates(1))
    assert (replicates(1) != replicates(2)).any()


def test_numbers_of_the_same_examples_are_drawn_together():
  features, labels = worlds.clusters()[:2]
  of = lambda x: trace_ratios(x, labels, K, 30)
  np.testing.assert_allclose(of(3 * features + 1), of(features), rtol=1e-4)
  first = features[:, 0]
  np.testing.assert_allclose(mean_replicates(-2 * first), -2 * mean_replicates(first), rtol=1e-12)


def test_means_against_a_literal_bootstrap():
  values = np.random.default_rng(0).exponential(size=N)
  draws = np.random.default_rng(5)
  means = [values[draws.integers(N, size=N)].mean() for _ in range(101)]
  np.testing.assert_allclose(mean_replicates(values, 101, seed=5), means)
  wrong = values > 1.5
  low, high = interval(mean_replicates(wrong))
  deviation = math.sqrt(wrong.mean() * (1 - wrong.mean()) / N)
  assert (high - low) / 2 == pytest.approx(1.96 * deviation, rel=0.2)


def share_covered(per_class, dim, pivotal, samples=150, classes=5, std=0.5):
  """How often the interval of a Gaussian sample holds the trace ratio of its population."""
  means = np.random.default_rng(0).normal(size=(classes, dim))
  truth = dim * std**2 / np.sum((means - means.mean(axis=0)) ** 2, axis=1).mean()
  covered = 0
  for sample in range(samples):
    rng = np.random.default_rng(sample)
    labels = rng.integers(classes, size=classes * per_class)
    features = means[labels] + std * rng.normal(size=(len(labels), dim))
    low, high = interval(trace_ratios(features, labels, classes, 100, sample, pivotal=pivotal))
    covered += low <= truth <= high
  return covered / samples


@pytest.mark.parametrize("per_class, dim", [(20, 4), (100, 4), (100, 32)])
def test_pivotal_coverage(per_class, dim):
  # 95 % less what 100 replicates and small samples cost; 150 samples scatter by 2 %.
  assert 0.87 <= share_covered(per_class, dim, pivotal=True) <= 0.99


def test_others_cover_it_only_with_many_examples_in_few_directions():
  assert share_covered(300, 4, pivotal=False) >= 0.87
  assert share_covered(100, 32, pivotal=False) < 0.6  # what the docstring warns of


def test_coverage_of_means():
  covered = 0
  for sample in range(200):
    low, high = interval(
      mean_replicates(np.random.default_rng(sample).random(100) < 0.3, 200, sample)
    )
    covered += low <= 0.3 <= high
  assert 0.88 <= covered / 200 <= 0.99


def test_total_collapse_and_no_classes():
  world = worlds.collapsed()
  found = trace_ratios(*world[:2], K)
  assert 0 <= found.min() <= found.max() < 1e-12
  same = np.ones((20, D), np.float32)
  spread = same + np.random.default_rng(0).normal(size=same.shape).astype(np.float32)
  one = np.zeros(20, int)
  for pivotal in (False, True):
    assert np.isnan(trace_ratios(spread, one, K, pivotal=pivotal)).all()
    assert trace_ratios(spread[:0], one[:0], K, pivotal=pivotal).shape == (0,)
  assert np.isnan(trace_ratios(same, np.arange(20) % 2, K)).all()
  assert mean_replicates([]).shape == (0,)
  assert (mean_replicates(np.ones(9)) == 1).all()


def test_coinciding_means_have_an_infinite_ratio():
  # Some draws take one point of each class, some both points of both: nothing in between is nan.
  features = np.array([[0.0], [1.0], [0.0], [1.0]], np.float32)
  assert interval(trace_ratios(features, [0, 0, 1, 1], K, replicates=400)) == (0, math.inf)


@pytest.mark.parametrize(
  "change, match",
  [
    ({"labels": np.full(N, K)}, "labels must lie in"),
    ({"features": np.zeros(N)}, r"features must have shape \[N, D\]; got"),
    ({"replicates": 0}, "replicates must be positive; got 0"),
  ],
  ids=lambda x: x if isinstance(x, str) else next(iter(x)),
)
def test_errors(change, match):
  world = worlds.clusters()
  arguments = {"features": world.features, "labels": world.labels, "num_classes": K} | change
  with pytest.raises(ValueError, match=match):
    trace_ratios(**arguments)


def test_tables_and_levels_are_refused():
  with pytest.raises(ValueError, match=r"values must have shape \[N\]; got \[3, 2\]"):
    mean_replicates(np.zeros((3, 2)))
  with pytest.raises(ValueError, match=r"replicates must have shape \[R\]; got \[3, 2\]"):
    interval(np.zeros((3, 2)))
  with pytest.raises(ValueError, match="level must lie in"):
    interval([1.0], level=1.0)
