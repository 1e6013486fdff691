"""Metrics are losses: derivatives through moments and measure against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

import nc_jax as nc

K, D, N = worlds.K, worlds.D, 56
CONSTANT = {"classes/present", "rank/between"}
# Distances and standard deviations have no derivative where they are 0, as at the simplex.
KINKS = {
  "nc2/equinorm_means",
  "nc2/equiangular_means",
  "nc2/angle_std_means",
  "nc2/etf_means",
  "nc2/gnc2_cov",
}


@jax.jit
def measure(features, labels, weight):
  moments = nc.ClassMoments.of(features, labels, K)
  return nc.measure(moments, nc.Head(weight, jnp.ones(K)))


@jax.jit
def tangents(features, labels, weight, d_features, d_weight):
  def of(x, w):
    return measure(x, labels, w)

  return jax.jvp(of, (features, weight), (d_features, d_weight))[1]


@jax.jit
def gradient(features, labels, weight, mix):
  def loss(x, w):
    values = measure(x, labels, w)
    return sum(jnp.where(jnp.isfinite(v), mix[key] * v, 0) for key, v in values.items())

  return jax.grad(loss, argnums=(0, 1))(features, weight)


def generic():
  world = worlds.clusters(size=N)
  return world.features.astype(np.float64), world.labels


def noise_about_a_simplex():
  """All singular values of the means coincide, where the derivative of an SVD is nan."""
  labels = np.repeat(np.arange(K, dtype=np.int32), N // K)
  noise = 0.3 * np.random.default_rng(0).normal(size=(N // 2, D))
  noise = np.stack([noise, -noise], 1).reshape(N, D)  # in pairs: the means stay where they are
  return 0.2 + worlds.simplex(K, D)[labels] + noise, labels


def singular_noise():
  """Three coordinates never vary within a class: VCI takes the eigenvector route."""
  labels = np.repeat(np.arange(K, dtype=np.int32), N // K)
  rng = np.random.default_rng(1)
  return rng.normal(size=(K, D))[labels] + rng.normal(size=(N, D)) * (np.arange(D) < 9), labels


@pytest.mark.parametrize("world", [generic, noise_about_a_simplex, singular_noise])
def test_derivatives_equal_finite_differences(world):
  features, labels = world()
  rng = np.random.default_rng(2)
  weight = rng.normal(size=(K, D))
  d_features, d_weight = rng.normal(size=features.shape), rng.normal(size=weight.shape)
  if world is singular_noise:  # along a direction that keeps the rank
    d_features = d_features * (np.arange(D) < 9)
  step = 1e-6
  with jax.enable_x64(True):
    values, ahead, behind = (
      jax.device_get(measure(features + s * d_features, labels, weight + s * d_weight))
      for s in (0, step, -step)
    )
    forward = tangents(features, labels, weight, d_features, d_weight)
    smooth = set(values) - CONSTANT - (KINKS if world is noise_about_a_simplex else set())
    mix = {key: rng.normal() * (key in smooth) for key in values}
    backward = gradient(features, labels, weight, mix)
  for key in smooth:
    difference = (ahead[key] - behind[key]) / (2 * step)
    # Central differences: truncation 1e-12 and rounding 1e-16 / 1e-6, relative to the value.
    scale = max(abs(values[key]), abs(difference), 1e-3)
    np.testing.assert_allclose(float(forward[key]), difference, atol=2e-6 * scale, err_msg=key)
  # Reverse mode of a random mixture of all metrics, against forward mode.
  projected = np.vdot(backward[0], d_features) + np.vdot(backward[1], d_weight)
  expected = sum(mix[key] * float(forward[key]) for key in smooth)
  np.testing.assert_allclose(projected, expected, rtol=1e-9)


def test_gradients_are_finite_at_total_collapse():
  world = worlds.collapsed(each=N // K)
  with jax.enable_x64(True):
    arrays = world.features.astype(np.float64), world.labels, world.weight.astype(np.float64)
    mix = {key: 1.0 for key in measure(*arrays)}
    for grad in gradient(*arrays, mix):
      assert np.isfinite(grad).all()


def test_descending_a_metric_collapses_the_features():
  world = worlds.clusters(size=N)

  def loss(x):
    return nc.metrics.variability.trace_ratio(nc.ClassMoments.of(x, world.labels, K))

  step = jax.jit(jax.value_and_grad(loss))
  features = world.features
  before, _ = step(features)
  for _ in range(20):
    features = features - 10 * step(features)[1]
  assert step(features)[0] < 0.5 * before


@pytest.mark.parametrize("second_pass", [False, True])
def test_masked_nan_padding_has_gradient_zero(second_pass):
  features, labels = (x.copy() for x in worlds.clusters(size=N)[:2])
  features[5:9] = np.nan
  keep = ~np.isnan(features).any(1)

  def loss(x):
    moments = nc.ClassMoments.of(x, labels, K, mask=keep, scatter=False)
    if not second_pass:
      return nc.metrics.variability.trace_ratio(moments)
    decisions = nc.decide(x, labels, moments, mask=keep)
    return decisions.own_distance + nc.measure(moments, decisions=decisions)["nc1/pinv"]

  grad = jax.jit(jax.grad(loss))(features)
  assert np.isfinite(grad).all() and not grad[~keep].any() and grad[keep].any()
