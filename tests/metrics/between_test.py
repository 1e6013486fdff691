"""Within-class covariances as trained networks have them: far from round."""

import numpy as np
import pytest

import nc_jax as nc
from nc_jax.metrics import variability
from tests.metrics import oracle


def trained_like(rng, smallest, dim=48, per_class=60, num_classes=6):
  """Features whose variances fall by `1 / smallest` over the units, in coordinates of their own
  scale and mixed among neighbours, with class means a few deviations apart."""
  deviations = np.geomspace(1, smallest**0.5, dim)
  mixing = np.eye(dim) + 0.5 * np.eye(dim, k=1) + 0.5 * np.eye(dim, k=-1)
  labels = np.repeat(np.arange(num_classes), per_class)
  noise = rng.normal(size=(len(labels), dim)) @ mixing
  means = 3 * rng.normal(size=(num_classes, dim)) @ mixing
  return ((noise + means[labels]) * deviations).astype(np.float32), labels


@pytest.mark.parametrize(("smallest", "rtol"), [(1e-2, 3e-4), (1e-4, 6e-4), (1e-6, 5e-3)])
def test_directions_of_tiny_variance_count_in_vci(smallest, rtol):
  features, labels = trained_like(np.random.default_rng(0), smallest)
  expected = oracle.measure(features, labels, 6)["nc1/vci"]
  measured = variability.vci(nc.ClassMoments.of(features, labels, 6))
  # A float32 scatter knows variances to 1e-7 of the largest, so the smallest to 1e-7 / smallest.
  # Leaving out what lies below D ε of the largest, as a pseudo-inverse does, is 20 % off at 1e-6.
  assert measured == pytest.approx(expected, rel=rtol)


def test_a_singular_covariance_is_told_from_a_small_one():
  """Fewer examples than features: the span of the means is free of variance, VCI is 0."""
  rng = np.random.default_rng(0)
  labels = np.repeat(np.arange(4), 5)
  features = (rng.normal(size=(20, 64)) + 5 * rng.normal(size=(4, 64))[labels]).astype(np.float32)
  assert oracle.measure(features, labels, 4)["nc1/vci"] == pytest.approx(0, abs=1e-9)
  assert variability.vci(nc.ClassMoments.of(features, labels, 4)) == pytest.approx(0, abs=1e-4)


def test_units_that_never_fire_change_nothing():
  features, labels = trained_like(np.random.default_rng(1), 1e-4)
  dead = np.zeros((len(labels), 7), np.float32)
  alive = nc.ClassMoments.of(features, labels, 6)
  padded = nc.ClassMoments.of(np.hstack([features, dead]), labels, 6)
  for metric in (variability.pinv_ratio, variability.vci, variability.trace_ratio):
    assert float(metric(padded)) == pytest.approx(float(metric(alive)), rel=1e-3), metric
