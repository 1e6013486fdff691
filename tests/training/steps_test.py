import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nc_jax.training import data, feeds, losses, models, optim, steps

SIZE, CLASSES = 96, 5


@pytest.fixture(scope="module")
def split():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (SIZE, 4, 4, 1), dtype=np.uint8)
  return data.Split(images, rng.integers(0, CLASSES, SIZE).astype(np.int32))


def setup(batch_norm=True, schedule=0.1, weight_decay=0.01, axis_name=steps.AXIS):
  model = models.MODELS["mlp"](
    num_classes=CLASSES, width=16, depth=2, batch_norm=batch_norm, axis_name=axis_name
  )
  optimiser = optim.sgd(schedule, 0.9, weight_decay)
  apply = steps.make_apply(model, np.float32([2 / 255]), np.float32([-1]))
  return apply, optimiser, steps.init_state(model, optimiser, np.zeros((1, 4, 4, 1), np.uint8), 0)


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


def test_four_devices_take_the_step_that_one_would_take(split):
  """The reference is plain JAX: one device, the whole batch, PyTorch's SGD by hand."""
  apply, optimiser, state = setup()
  single, _, _ = setup(axis_name=None)
  params, stats = jax.device_get((state.params, state.batch_stats))
  velocity = jax.tree.map(np.zeros_like, params)
  index = index_of(6)
  expected = []
  for ids in index.reshape(6, -1):

    def objective(params, stats=stats, ids=ids):
      (logits, _), new = single(
        {"params": params, "batch_stats": stats}, split.images[ids], train=True,
        mutable=["batch_stats"],
      )  # fmt: skip
      return losses.cross_entropy(logits, split.labels[ids]).mean(), new["batch_stats"]

    (loss, stats), gradient = jax.value_and_grad(objective, has_aux=True)(params)
    expected.append(float(loss))
    gradient = jax.tree.map(lambda g, p: g + 0.01 * p, gradient, params)
    velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
    params = jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity)

  train = steps.make_train(apply, losses.cross_entropy, optimiser, None)
  state, sums = train(state, *feeds.Feed(split, resident=True)(index))
  assert int(state.step) == 6
  assert jax.local_device_count() == 4
  np.testing.assert_allclose(sums["loss"], expected, rtol=2e-5)
  close(state.params, params)
  close(state.batch_stats, stats)


def test_resident_and_streamed_examples_train_alike_bit_for_bit(split):
  index = index_of(5)
  results = []
  for resident in (True, False):
    apply, optimiser, state = setup()
    feed = feeds.Feed(split, resident)
    train = steps.make_train(apply, losses.squared_error, optimiser, feed.axis)
    results.append(jax.device_get(train(state, *feed(index))))
  jax.tree.map(np.testing.assert_array_equal, *results)


def test_one_call_of_many_steps_equals_many_calls_and_compiles_once(split):
  apply, optimiser, state = setup()
  train = steps.make_train(apply, losses.cross_entropy, optimiser, None)
  feed, index = feeds.Feed(split, resident=True), index_of(6)
  whole, sums = jax.device_get(train(state, *feed(index)))
  _, _, state = setup()
  traces = []
  count = lambda *args, **kwargs: traces.append(1) or apply(*args, **kwargs)
  train = steps.make_train(count, losses.cross_entropy, optimiser, None)
  parts = []
  for part in np.split(index, 3):
    state, some = train(state, *feed(part))
    parts.append(jax.device_get(some))
  assert len(traces) == 1
  close(jax.device_get(state), whole, rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(np.concatenate([p["loss"] for p in parts]), sums["loss"], rtol=1e-6)


def test_the_error_is_the_share_of_wrong_decisions(split):
  apply, optimiser, state = setup(batch_norm=False, schedule=0.0)
  logits, taps = apply(jax.device_get(state.variables), split.images, train=False)
  wrong = np.argmax(logits, -1) != split.labels
  index = np.arange(SIZE, dtype=np.int32).reshape(2, 4, 12)
  train = steps.make_train(apply, losses.cross_entropy, optimiser, None)
  _, sums = train(state, *feeds.Feed(split, resident=True)(index))
  np.testing.assert_allclose(sums["error"], wrong.reshape(2, -1).mean(1), rtol=1e-6)


def test_piecewise_schedule_decays_at_shares_of_the_whole():
  rate = optim.piecewise(0.1, 300, (1 / 3, 2 / 3), 0.1)
  at = [float(rate(step)) for step in (0, 99, 101, 199, 201, 299)]
  np.testing.assert_allclose(at, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


def test_losses_are_their_formulas():
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(7, 4)), rng.integers(0, 4, 7)
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  np.testing.assert_allclose(
    losses.cross_entropy(jnp.float32(logits), labels), -np.log(p[np.arange(7), labels]), rtol=1e-5
  )
  np.testing.assert_allclose(
    losses.squared_error(jnp.float32(logits), labels),
    ((logits - np.eye(4)[labels]) ** 2).mean(1),
    rtol=1e-5,
  )


def test_the_mlp_taps_every_hidden_layer_and_initialises_after_he():
  model = models.MODELS["mlp"](num_classes=10, width=400, depth=3)
  variables = model.init(jax.random.key(0), jnp.zeros((1, 20, 20, 1)), train=False)
  (logits, taps) = model.apply(variables, jnp.ones((2, 20, 20, 1)), train=False)
  assert list(taps) == ["layer1", "layer2", "penultimate"]
  assert logits.shape == (2, 10) and all(tap.shape == (2, 400) for tap in taps.values())
  head = variables["params"]["head"]
  np.testing.assert_allclose(logits, taps["penultimate"] @ head["kernel"] + head["bias"], rtol=1e-5)
  for name in ("linear1", "linear2", "linear3"):
    kernel = variables["params"][name]["kernel"]
    assert float(kernel.std()) == pytest.approx(np.sqrt(2 / kernel.shape[0]), rel=0.02)
