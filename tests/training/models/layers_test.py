"""Batch norm over batches and devices; convolution and its gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from nc_jax.training import models
from nc_jax.training.models.layers import Body


class Convolution(Body, kw_only=True):
  size: int
  stride: int

  @nn.compact
  def __call__(self, x):
    return self.conv(4, self.size, self.stride, name="conv1")(x)


class Norm(Body):
  @nn.compact
  def __call__(self, x, train):
    return self.norm(train, name="norm1")(x)


rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(16, 8, 8, 2)).astype(np.float32)


def convnet(axis_name=None):
  return models.build("convnet", width=4, depth=2, axis_name=axis_name, image_shape=(8, 8, 2))


def test_an_example_is_evaluated_alike_in_any_company():
  body = convnet()
  variables = body.init(jax.random.key(0), IMAGES, train=False)
  run = jax.jit(
    lambda x, train: body.apply(variables, x, train=train, mutable=["batch_stats"])[0],
    static_argnums=1,
  )
  alone, among = run(IMAGES[:2], False), run(IMAGES, False)
  np.testing.assert_allclose(alone["penultimate"], among["penultimate"][:2], rtol=1e-5, atol=1e-6)
  alone, among = run(IMAGES[:2], True), run(IMAGES, True)
  assert np.abs(alone["penultimate"] - among["penultimate"][:2]).max() > 0.01


def test_four_devices_norm_by_the_statistics_of_the_whole_batch():
  assert jax.local_device_count() == 4
  single, mapped = convnet(), convnet("devices")
  variables = single.init(jax.random.key(0), IMAGES, train=False)
  step = lambda body: lambda x: body.apply(variables, x, train=True, mutable=["batch_stats"])
  taps, updates = jax.jit(step(single))(IMAGES)
  shards = IMAGES.reshape(4, 4, 8, 8, 2)
  shard_taps, shard_updates = jax.pmap(step(mapped), axis_name="devices")(shards)
  for name, x in taps.items():
    np.testing.assert_allclose(shard_taps[name].reshape(x.shape), x, rtol=1e-4, atol=1e-5)
  jax.tree.map(
    lambda each, whole: [np.testing.assert_allclose(x, whole, rtol=1e-5, atol=1e-6) for x in each],
    shard_updates["batch_stats"],
    updates["batch_stats"],
  )
  assert np.abs(updates["batch_stats"]["norm1"]["mean"]).max() > 1e-3  # they did move


def test_variance_survives_a_mean_that_is_far_larger():
  """Features of norm 1e3 that vary by 1e-2, as in late training: E[x²] - E[x]² would be noise."""
  x = (1000 + 0.01 * rng.normal(size=(256, 8))).astype(np.float32)
  variables = Norm().init(jax.random.key(0), x, train=False)
  _, updates = Norm().apply(variables, x, train=True, mutable=["batch_stats"])
  moved = (updates["batch_stats"]["norm1"]["var"] - 0.9) / 0.1
  np.testing.assert_allclose(moved, np.float64(x).var(0), atol=1e-5)


@pytest.mark.parametrize(
  "size, stride, side", [(3, 1, 6), (3, 2, 6), (3, 2, 7), (1, 2, 6), (7, 2, 9)]
)
def test_gradients_of_a_convolution_are_those_that_jax_derives(size, stride, side):
  x = jnp.float32(rng.normal(size=(2, side, side, 3)))
  module = Convolution(size=size, stride=stride)
  kernel = jnp.float32(rng.normal(size=(size, size, 3, 4)))
  ours = lambda x, kernel: module.apply({"params": {"conv1": {"kernel": kernel}}}, x)
  theirs = lambda x, kernel: lax.conv_general_dilated(
    x, kernel, (stride,) * 2, ((size // 2,) * 2,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  weight = jnp.float32(rng.normal(size=theirs(x, kernel).shape))
  got, expected = (
    jax.grad(lambda x, kernel, f=f: jnp.vdot(f(x, kernel), weight), (0, 1))(x, kernel)
    for f in (ours, theirs)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected
  )


def test_convolutions_of_a_cpu_loop_have_the_fast_layout():
  """In a loop XLA turns no other layout into it: such gradients are fifty times slower."""
  module = Convolution(size=3, stride=2)
  variables = module.init(jax.random.key(0), IMAGES)
  loss = lambda v, x: module.apply(v, x).sum()

  def step(carry, _):
    v, x = carry
    dv, dx = jax.grad(loss, (0, 1))(v, x)
    return (jax.tree.map(jnp.add, v, dv), x + dx), None

  loop = jax.jit(lambda v, x: lax.scan(step, (v, x), length=2)[0])
  text = loop.lower(variables, IMAGES).compile().as_text()
  labels = [line.split("dim_labels=")[1].split(",")[0] for line in text.splitlines()
            if "convolution(" in line]  # fmt: skip
  assert len(labels) >= 2 and set(labels) == {"b01f_01io->b01f"}
  assert "rhs_reversal" not in text
