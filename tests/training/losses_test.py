import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nc_jax.errors import UserError
from nc_jax.training import losses

BATCH, CLASSES, DIM = 12, 4, 6
COUNTS = np.array([40, 10, 5, 20])


@pytest.fixture(scope="module")
def batch():
  """Logits, labels (class 3 has one example only) and features, in float64."""
  rng = np.random.default_rng(0)
  labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 3])
  return 2 * rng.normal(size=(BATCH, CLASSES)), labels, rng.normal(size=(BATCH, DIM))


def of(name, batch, **options):
  logits, labels, features = batch
  loss = jax.jit(losses.build(name, class_counts=COUNTS, **options))
  return np.asarray(loss(jnp.float32(logits), jnp.int32(labels), jnp.float32(features)))


def probabilities(logits):
  return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def cross_entropy(logits, labels):
  return -np.log(probabilities(logits)[np.arange(len(labels)), labels])


def contrast(features, labels, temperature):
  """L_out, pair by pair."""
  z = features / np.linalg.norm(features, axis=1, keepdims=True)
  values = []
  for i in range(len(z)):
    others = [a for a in range(len(z)) if a != i]
    total = sum(np.exp(z[i] @ z[a] / temperature) for a in others)
    alike = [p for p in others if labels[p] == labels[i]]
    terms = [np.log(np.exp(z[i] @ z[p] / temperature) / total) for p in alike]
    values.append(-np.mean(terms) if alike else 0.0)
  return np.array(values)


def test_losses_are_their_formulas(batch):
  logits, labels, features = batch
  p = probabilities(logits)
  own = p[np.arange(BATCH), labels]
  one_hot = np.eye(CLASSES)[labels]
  k_of_true = np.where(one_hot == 1, 15.0, 1.0)
  shares = COUNTS / COUNTS.sum()
  expected = {
    "cross_entropy": ({}, -np.log(own)),
    "label_smoothing": (
      {"smoothing": 0.2},
      -((0.8 * one_hot + 0.2 / CLASSES) * np.log(p)).sum(1),
    ),
    "focal": ({"gamma": 1.5}, -((1 - own) ** 1.5) * np.log(own)),
    "squared_error": ({}, ((logits - one_hot) ** 2).mean(1)),
    "rescaled_squared_error": (
      {"k": 15.0, "M": 30.0},
      (k_of_true * (logits - 30 * one_hot) ** 2).mean(1),
    ),
    "supervised_contrastive": (
      {"temperature": 0.5},
      contrast(features, labels, 0.5) - np.log(own),
    ),
    "logit_adjusted": ({"tau": 0.7}, cross_entropy(logits + 0.7 * np.log(shares), labels)),
    "vs": (
      {"gamma": 0.3, "tau": 0.7},
      cross_entropy((COUNTS / 40) ** 0.3 * logits + 0.7 * np.log(shares), labels),
    ),
  }
  assert expected.keys() == losses.LOSSES.keys()
  for name, (options, values) in expected.items():
    np.testing.assert_allclose(of(name, batch, **options), values, rtol=2e-5, err_msg=name)


@pytest.mark.parametrize(
  "name, options, limit",
  [
    ("focal", {"gamma": 0.0}, "cross_entropy"),
    ("label_smoothing", {"smoothing": 0.0}, "cross_entropy"),
    ("rescaled_squared_error", {"k": 1.0, "M": 1.0}, "squared_error"),
    ("logit_adjusted", {"tau": 0.0}, "cross_entropy"),
    ("vs", {"gamma": 0.0, "tau": 0.0}, "cross_entropy"),
    ("vs", {"gamma": 0.0, "tau": 1.0}, "logit_adjusted"),
  ],
)
def test_limits(batch, name, options, limit):
  np.testing.assert_allclose(of(name, batch, **options), of(limit, batch), rtol=1e-6)


@pytest.mark.parametrize("name", ["logit_adjusted", "vs"])
def test_equal_counts_leave_cross_entropy(batch, name):
  logits, labels, features = map(jnp.asarray, batch)
  loss = losses.build(name, class_counts=[9] * CLASSES)
  np.testing.assert_allclose(
    loss(logits, labels, features), cross_entropy(*batch[:2]), rtol=1e-5
  )


@pytest.mark.parametrize("name", losses.LOSSES)
@pytest.mark.parametrize("size", [0.0, 1e4])
def test_values_and_gradients_stay_finite(batch, name, size):
  """Right, wrong and undecided by far; and features of zero length."""
  options = {"gamma": 0.5} if name == "focal" else {}  # (1 - p)^γ has no finite slope at p = 1
  loss = losses.build(name, class_counts=COUNTS, **options)
  labels = jnp.int32(batch[1])
  logits = size * np.concatenate(
    [np.eye(CLASSES)[batch[1][:6]], np.eye(CLASSES)[batch[1][6:] - 1]]
  )
  objective = lambda logits, features: loss(logits, labels, features).mean()
  value, gradients = jax.jit(jax.value_and_grad(objective, (0, 1)))(
    jnp.float32(logits), jnp.float32(size * batch[2])
  )
  assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)


def test_the_contrast_of_four_devices_is_that_of_one(batch):
  """Values, and gradients with respect to a map before the features, averaged as in training."""
  logits, labels, features = jnp.float32(batch[0]), jnp.int32(batch[1]), jnp.float32(batch[2])
  map_ = jnp.float32(np.random.default_rng(1).normal(size=(DIM, DIM)))

  def objective(axis_name):
    loss = losses.build("supervised_contrastive", axis_name=axis_name)
    return lambda m, z, y, x: jnp.mean(loss(z, y, x @ m))

  quarters = [x.reshape(4, BATCH // 4, *x.shape[1:]) for x in (logits, labels, features)]
  value, gradient = jax.pmap(
    lambda m, *part: jax.lax.pmean(jax.value_and_grad(objective("d"))(m, *part), "d"),
    axis_name="d", in_axes=(None, 0, 0, 0), out_axes=None,
  )(map_, *quarters)  # fmt: skip
  one, reference = jax.jit(jax.value_and_grad(objective(None)))(map_, logits, labels, features)
  np.testing.assert_allclose(value, one, rtol=1e-6)
  np.testing.assert_allclose(gradient, reference, rtol=1e-4, atol=1e-6)
  assert np.abs(reference).max() > 0.01


def test_a_simplex_with_no_spread_has_the_least_contrast():
  """Graf et al. 2021: neither a little spread nor another collapsed frame is as good."""
  labels = np.repeat(np.arange(3), 4)
  frame = np.eye(3)[labels]
  simplex = frame - 1 / 3
  nearly = simplex + 0.05 * np.random.default_rng(0).normal(size=simplex.shape)
  least, *others = (
    of("supervised_contrastive", (np.zeros((12, 3)), labels, x)).mean()
    for x in (simplex, nearly, frame)
  )
  assert least < min(others) - 1e-5


def test_what_cannot_be_built_is_said_in_one_line(batch):
  with pytest.raises(UserError, match=r"^config.loss.tau = 2.0, but focal has no such option \(it"):
    losses.build("focal", gamma=1.0, tau=2.0, smoothing=None)
  with pytest.raises(UserError, match="every class, but class 1 has none"):
    losses.build("logit_adjusted", class_counts=[3, 0, 2])
  assert of("focal", batch, gamma=None, tau=None) == pytest.approx(of("focal", batch, gamma=2.0))
