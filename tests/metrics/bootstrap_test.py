"""Intervals over examples: against a literal bootstrap, and their coverage of a known world."""

import math

import numpy as np
import pytest
import worlds

import nc_jax as nc
from nc_jax.metrics import bootstrap, spectrum, variability
from nc_jax.metrics.bootstrap import mean_interval, metric_intervals

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


def trace_ratio_interval(features, labels, num_classes, *args, **options):
  """Bounds of V alone, without a scatter."""
  return metric_intervals(
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
  (counts,) = bootstrap._resampled(N, 12, seed=3)
  about, reference = bootstrap._about_means(features, labels, K)
  ours = bootstrap._measure_replicates(of_moments, scatter, about, labels, reference, counts)
  theirs = literal(features, labels, 12, seed=3, scatter=scatter)
  assert set(ours) == set(theirs) >= ({V, "nc1/cdnv", "nc1/pinv"} if scatter else {V, "nc1/cdnv"})
  for key in theirs:
    np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-4, err_msg=key)


def test_the_bounds_are_those_of_the_replicates():
  features, labels = worlds.clusters()[:2]
  ratios = sorted(literal(features, labels, 41)[V])
  low, high = trace_ratio_interval(features, labels, K, replicates=41, level=0.9)
  np.testing.assert_allclose((low, high), (ratios[2], ratios[38]), rtol=2e-5)
  ratio = float(variability.trace_ratio(nc.ClassMoments.of(features, labels, K)))
  pivotal = trace_ratio_interval(features, labels, K, 41, level=0.9, method="pivotal")
  np.testing.assert_allclose(pivotal, (ratio**2 / high, ratio**2 / low), rtol=2e-5)


def test_blocks_of_replicates_change_nothing(monkeypatch):
  features, labels = worlds.clusters()[:2]
  whole = trace_ratio_interval(features, labels, K), mean_interval(labels == 0)
  monkeypatch.setattr(bootstrap, "BLOCK", 7 * N)
  assert (trace_ratio_interval(features, labels, K), mean_interval(labels == 0)) == whole


def test_deterministic_in_the_seed():
  features, labels = worlds.clusters()[:2]
  for interval in (
    lambda seed: trace_ratio_interval(features, labels, K, 20, seed),
    lambda seed: mean_interval(features[:, 0], 20, seed),
  ):
    assert interval(1) == interval(1) != interval(2)


def test_means_against_a_literal_bootstrap():
  values = np.random.default_rng(0).exponential(size=N)
  draws = np.random.default_rng(5)
  means = sorted(values[draws.integers(N, size=N)].mean() for _ in range(101))
  np.testing.assert_allclose(mean_interval(values, 101, seed=5, level=0.9), (means[5], means[95]))
  wrong = values > 1.5
  low, high = mean_interval(wrong)
  deviation = math.sqrt(wrong.mean() * (1 - wrong.mean()) / N)
  assert (high - low) / 2 == pytest.approx(1.96 * deviation, rel=0.2)


def share_covered(per_class, dim, method, samples=150, classes=5, std=0.5):
  """How often the interval of a Gaussian sample holds the trace ratio of its population."""
  means = np.random.default_rng(0).normal(size=(classes, dim))
  truth = dim * std**2 / np.sum((means - means.mean(axis=0)) ** 2, axis=1).mean()
  covered = 0
  for sample in range(samples):
    rng = np.random.default_rng(sample)
    labels = rng.integers(classes, size=classes * per_class)
    features = means[labels] + std * rng.normal(size=(len(labels), dim))
    low, high = trace_ratio_interval(features, labels, classes, 100, sample, method=method)
    covered += low <= truth <= high
  return covered / samples


@pytest.mark.parametrize("per_class, dim", [(20, 4), (100, 4), (100, 32)])
def test_pivotal_coverage(per_class, dim):
  # 95 % less what 100 replicates and small samples cost; 150 samples scatter by 2 %.
  assert 0.87 <= share_covered(per_class, dim, "pivotal") <= 0.99


def test_percentile_coverage_only_of_many_examples_in_few_directions():
  assert share_covered(300, 4, "percentile") >= 0.87
  assert share_covered(100, 32, "percentile") < 0.6  # what the docstring warns of


def test_coverage_of_means():
  covered = 0
  for sample in range(200):
    low, high = mean_interval(np.random.default_rng(sample).random(100) < 0.3, seed=sample)
    covered += low <= 0.3 <= high
  assert 0.88 <= covered / 200 <= 0.99


def test_total_collapse_and_no_classes():
  world = worlds.collapsed()
  low, high = trace_ratio_interval(*world[:2], K)
  assert 0 <= low <= high < 1e-12
  same = np.ones((20, D), np.float32)
  spread = same + np.random.default_rng(0).normal(size=same.shape).astype(np.float32)
  one = np.zeros(20, int)
  for method in ("percentile", "pivotal"):
    assert np.isnan(trace_ratio_interval(spread, one, K, method=method)).all()
    assert np.isnan(trace_ratio_interval(spread[:0], one[:0], K, method=method)).all()
  assert np.isnan(trace_ratio_interval(same, np.arange(20) % 2, K)).all()
  assert np.isnan(mean_interval([])).all()
  assert mean_interval(np.ones(9)) == (1.0, 1.0)


def test_coinciding_means_have_an_infinite_ratio():
  # Some draws take one point of each class, some both points of both: nothing in between is nan.
  features = np.array([[0.0], [1.0], [0.0], [1.0]], np.float32)
  low, high = trace_ratio_interval(features, [0, 0, 1, 1], K, replicates=400)
  assert low == 0 and high == math.inf


@pytest.mark.parametrize(
  "change, match",
  [
    ({"labels": np.full(N, K)}, "labels must lie in"),
    ({"features": np.zeros(N)}, r"features must have shape \[N, D\]; got"),
    ({"level": 1.0}, "level must lie in"),
    ({"replicates": 0}, "replicates must be positive; got 0"),
    ({"method": "normal"}, "method must be one of percentile, pivotal; got 'normal'"),
  ],
  ids=lambda x: x if isinstance(x, str) else next(iter(x)),
)
def test_errors(change, match):
  world = worlds.clusters()
  arguments = {"features": world.features, "labels": world.labels, "num_classes": K} | change
  with pytest.raises(ValueError, match=match):
    trace_ratio_interval(**arguments)


def test_means_of_a_table_are_refused():
  with pytest.raises(ValueError, match=r"values must have shape \[N\]; got \[3, 2\]"):
    mean_interval(np.zeros((3, 2)))
