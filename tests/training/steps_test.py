import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nc_jax.training import optim, steps
from nc_jax.training.models import PENULTIMATE

SIZE, CLASSES = 96, 5


class Network(nn.Module):
  """Two linear layers with a batch norm between them."""

  batch_norm: bool = True
  axis_name: str | None = steps.AXIS

  @nn.compact
  def __call__(self, images, train):
    x = nn.Dense(16)(images.reshape(len(images), -1))
    if self.batch_norm:
      axis_name = self.axis_name if train else None
      x = nn.BatchNorm(not train, axis_name=axis_name, use_fast_variance=False)(x)
    x = nn.relu(x)
    return nn.Dense(CLASSES)(x), {PENULTIMATE: x}


def loss(logits, labels, features):
  """Cross-entropy plus a pull on the features, so that it matters which features come."""
  log_p = jax.nn.log_softmax(logits)
  return jnp.mean(features**2, axis=-1) - jnp.take_along_axis(log_p, labels[:, None], 1)[:, 0]


@pytest.fixture(scope="module")
def split():
  """Images and labels."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (SIZE, 4, 4, 1), dtype=np.uint8)
  return images, rng.integers(0, CLASSES, SIZE).astype(np.int32)


def setup(batch_norm=True, optimiser="sgd", rate=0.1, axis_name=steps.AXIS):
  model = Network(batch_norm, axis_name)
  optimiser = optim.build(optimiser, lambda step: rate, weight_decay=0.01)
  images = np.zeros((1, 4, 4, 1), np.uint8)
  state = steps.init_state(model, optimiser, images, 0, np.float32([2 / 255]), np.float32([-1]))
  return steps.make_apply(model), optimiser, state


def index_of(number, batch=24, devices=None):
  """`number` batches [T, L, B] of random examples."""
  devices = devices or jax.local_device_count()
  ids = np.random.default_rng(1).integers(0, SIZE, (number, batch)).astype(np.int32)
  return ids.reshape(number, devices, batch // devices)


def close(a, b, rtol=2e-5, atol=2e-6):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=atol),
    a,
    b,
  )


@pytest.mark.parametrize("name, accumulate", [("sgd", 1), ("sam", 1), ("sam", 3)])
def test_four_devices_take_the_step_that_one_would_take(split, name, accumulate):
  """The reference is plain JAX: one device, the whole batch, the optimiser by hand.

  A batch in micro-batches, every third example, is three whose gradients are averaged, one after
  another as far as the running statistics are concerned.
  """
  images, labels = split
  apply, optimiser, state = setup(optimiser=name)
  single, _, _ = setup(axis_name=None)
  params, stats = jax.device_get((state.params, state.batch_stats))
  constants = {"constants": jax.device_get(state.constants)}
  velocity = jax.tree.map(np.zeros_like, params)
  index = index_of(6)
  expected = []

  @jax.jit
  def differentiate(params, stats, images, labels):
    def objective(params):
      (logits, taps), new = single(
        constants | {"params": params, "batch_stats": stats},
        images,
        train=True,
        mutable=["batch_stats"],
      )
      return loss(logits, labels, taps[PENULTIMATE]).mean(), new["batch_stats"]

    return jax.value_and_grad(objective, has_aux=True)(params)

  def over(params, stats, ids):
    outcomes = []
    for micro in (ids[first::accumulate] for first in range(accumulate)):
      (value, stats), gradient = differentiate(params, stats, images[micro], labels[micro])
      outcomes.append((value, gradient))
    value, gradient = jax.tree.map(lambda *x: np.mean(x, axis=0), *outcomes)
    return (value, stats), gradient

  for ids in index.reshape(6, -1):
    (value, new_stats), gradient = over(params, stats, ids)
    expected.append(float(value))
    if name == "sam":
      norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradient)))
      uphill = jax.tree.map(lambda p, g, norm=norm: p + 0.05 * g / norm, params, gradient)
      _, gradient = over(uphill, stats, ids)
    stats = new_stats
    gradient = jax.tree.map(lambda g, p: g + 0.01 * p, gradient, params)
    velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
    params = jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity)

  train = steps.make_train(apply, loss, optimiser, None, accumulate=accumulate)
  state, sums = train(state, images, labels, index)
  assert int(state.step) == 6
  assert jax.local_device_count() == 4
  np.testing.assert_allclose(sums["loss"], expected, rtol=2e-5)
  close(state.params, params)
  close(state.batch_stats, stats)


def brightened(images, keys):
  """An augmentation that tells which key each image got."""
  brightness = jax.random.key_data(keys)[:, 0] % 100
  return images // 2 + brightness[:, None, None, None].astype(np.uint8)


def test_without_batch_norm_micro_batches_change_nothing_but_rounding(split):
  whole, parts = (
    jax.device_get(
      steps.make_train(apply, loss, optimiser, None, brightened, 7, accumulate)(
        state, *split, index_of(5)
      )
    )
    for accumulate in (1, 3)
    for apply, optimiser, state in [setup(batch_norm=False, optimiser="sam")]
  )
  close(parts, whole)


def test_examples_train_alike_bit_for_bit_wherever_they_lie(split):
  """On every device, or each on the device that needs it."""
  images, labels = split
  index = index_of(5)
  apply, optimiser, state = setup()
  everywhere = steps.make_train(apply, loss, optimiser, None)(state, images, labels, index)
  everywhere = jax.device_get(everywhere)
  _, _, state = setup()
  ids = index.transpose(1, 0, 2).reshape(4, -1)
  places = np.broadcast_to(np.arange(5 * 6, dtype=np.int32).reshape(5, 1, 6), index.shape)
  train = steps.make_train(apply, loss, optimiser, 0)
  apart = jax.device_get(train(state, images[ids], labels[ids], places))
  jax.tree.map(np.testing.assert_array_equal, everywhere, apart)


def test_one_call_of_many_steps_equals_many_calls_and_compiles_once(split):
  apply, optimiser, state = setup()
  train = steps.make_train(apply, loss, optimiser, None)
  index = index_of(6)
  whole, sums = jax.device_get(train(state, *split, index))
  _, _, state = setup()
  traces = []
  count = lambda *args, **kwargs: traces.append(1) or apply(*args, **kwargs)
  train = steps.make_train(count, loss, optimiser, None)
  parts = []
  for part in np.split(index, 3):
    state, some = train(state, *split, part)
    parts.append(jax.device_get(some))
  assert len(traces) == 1
  close(jax.device_get(state), whole, rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(np.concatenate([p["loss"] for p in parts]), sums["loss"], rtol=1e-6)


def test_the_error_is_the_share_of_wrong_decisions(split):
  images, labels = split
  apply, optimiser, state = setup(batch_norm=False, rate=0.0)
  logits, _ = apply(jax.device_get(state.variables), images, train=False)
  wrong = np.argmax(logits, -1) != labels
  index = np.arange(SIZE, dtype=np.int32).reshape(2, 4, 12)
  train = steps.make_train(apply, loss, optimiser, None)
  _, sums = train(state, images, labels, index)
  np.testing.assert_allclose(sums["error"], wrong.reshape(2, -1).mean(1), rtol=1e-6)


def test_augmented_images_are_what_the_network_sees(split):
  """The reference trains on images that were augmented beforehand, keys and all."""
  images, labels = split
  index = index_of(3)
  key_of = lambda step, slot: jax.random.fold_in(jax.random.fold_in(jax.random.key(7), step), slot)
  keys = jax.vmap(lambda t: jax.vmap(lambda s: key_of(t, s))(jnp.arange(24)))(jnp.arange(3))
  before = np.asarray(brightened(images[index.ravel()], keys.ravel()))

  apply, optimiser, state = setup()
  train = steps.make_train(apply, loss, optimiser, None, brightened, seed=7)
  state, sums = jax.device_get(train(state, images, labels, index))
  _, _, expected = setup()
  train = steps.make_train(apply, loss, optimiser, None)
  whole = np.arange(72, dtype=np.int32).reshape(index.shape)
  expected, reference = jax.device_get(train(expected, before, labels[index.ravel()], whole))
  np.testing.assert_allclose(sums["loss"], reference["loss"], rtol=1e-6)
  close(state.params, expected.params, rtol=1e-6)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_an_example_s_key_does_not_depend_on_the_number_of_devices(devices):
  keys = jax.pmap(
    lambda step: jax.random.key_data(steps.example_keys(3, step, 8 // devices)),
    axis_name=steps.AXIS,
  )(np.full(devices, 11))
  key = jax.random.fold_in(jax.random.key(3), 11)
  expected = [jax.random.key_data(jax.random.fold_in(key, slot)) for slot in range(8)]
  np.testing.assert_array_equal(keys.reshape(8, 2), expected)


def test_the_network_sees_scaled_images_in_its_dtype():
  class Echo:
    def apply(self, variables, images, train):
      return images

  images = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
  scale, shift = np.float32([0.5, 1, 2]), np.float32([-1, 0, 1])
  variables = {"constants": {"scale": scale, "shift": shift}}
  seen = steps.make_apply(Echo(), jnp.bfloat16)(variables, images, train=False)
  assert seen.dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.float32(seen), np.float32(images) * scale + shift)
