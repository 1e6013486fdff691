"""Ranks against the singular values of the features themselves, collapsed and not."""

import numpy as np
import oracle
import pytest
import worlds

import nc_jax as nc
from nc_jax.metrics import spectrum

K, D = worlds.K, worlds.D


@pytest.mark.parametrize("std", [1.0, 1e-2, 1e-5])
def test_against_the_features(std):
  world = worlds.clusters(std=std, offset=5 * std, missing=(2,))
  expected = oracle.measure(*world[:2], K)
  values = spectrum.ranks(nc.ClassMoments.of(*world[:2], K))
  for key, value in values.items():
    # Half of the spectrum is std times smaller; from the sum of both parts, as eigenvalues, it
    # would be rounding below std = 3e-4.
    np.testing.assert_allclose(value, expected[key], rtol=1e-4, err_msg=key)


@pytest.mark.parametrize("steepness, rtol", [(0.5, 1e-5), (0.8, 1e-5), (1.0, 1e-4), (1.2, 2e-2)])
def test_a_spectrum_that_decays_as_trained_features_have_it(steepness, rtol):
  """Standard deviations i^-steepness, of which the last is 4e-2, 6e-3, 2e-3 and 5e-4."""
  rng = np.random.default_rng(0)
  dim, size = 512, 3000
  labels = np.arange(size) % K
  noise = rng.normal(size=(size, dim)) * np.arange(1, dim + 1) ** -steepness
  features = np.float32(0.1 * rng.normal(size=(K, dim))[labels] + noise)
  assert_ranks(features, labels, rtol)


@pytest.mark.parametrize("dim, rank, size", [(64, 20, 2000), (512, 20, 2000), (512, 400, 200)])
def test_directions_without_features_are_not_made_up(dim, rank, size):
  rng = np.random.default_rng(0)
  labels = np.arange(size) % K
  noise = rng.normal(size=(size, rank)) @ rng.normal(size=(rank, dim))
  features = np.float32(0.1 * rng.normal(size=(K, dim))[labels] + noise)
  assert_ranks(features, labels, 1e-5)


def assert_ranks(features, labels, rtol):
  centred = features.astype(np.float64) - features.mean(0, np.float64)
  exact = np.linalg.svd(centred, compute_uv=False)
  share = exact[exact > 1e-6 * exact[0]] / exact.sum()
  values = spectrum.ranks(nc.ClassMoments.of(features, labels, K))
  entropy = -np.sum(share * np.log(share))
  np.testing.assert_allclose(values["rank/effective"], np.exp(entropy), rtol=rtol)
  np.testing.assert_allclose(values["rank/nuclear"], exact.sum() ** 2 / (exact**2).sum(), rtol=rtol)
  np.testing.assert_allclose(values["rank/stable"], (exact**2).sum() / exact[0] ** 2, rtol=rtol)


def test_singular_values_are_descending_and_complete():
  world = worlds.clusters()
  features = world.features.astype(np.float64)
  expected = np.linalg.svd(features - features.mean(0), compute_uv=False)
  values = spectrum.singular_values(nc.ClassMoments.of(*world[:2], K))
  np.testing.assert_allclose(values[:D], expected, rtol=1e-5)


@pytest.mark.parametrize("std", [1.0, 1e-2, 1e-5])
def test_the_numerical_rank_of_the_covariance_is_that_of_the_features(std):
  moments = nc.ClassMoments.of(*worlds.clusters(std=std, missing=(2,))[:2], K)
  of_covariance = spectrum.numerical_rank_of_covariance(moments)
  assert of_covariance == spectrum.ranks(moments)["rank/numerical"] > 1


def test_by_hand():
  values = np.array([2.0, 2, 1, 0], np.float32)
  p = np.array([0.4, 0.4, 0.2])
  assert spectrum.effective_rank(values) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)
  assert spectrum.stable_rank(values) == pytest.approx(9 / 4)
  assert spectrum.numerical_rank(values) == 3
  assert spectrum.nuclear_rank(values) == pytest.approx(25 / 9)
