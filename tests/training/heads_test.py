import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nc_jax.errors import UserError
from nc_jax.training import frames, heads, losses


def cosines(rows):
  """Of every two rows: float64 [K (K - 1)]."""
  rows = np.float64(rows)
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  return (rows @ rows.T)[~np.eye(len(rows), dtype=bool)]


@pytest.mark.parametrize("dim", [4, 16])
@pytest.mark.parametrize(
  "name, options",
  [
    ("linear", {}),
    ("linear", {"bias": False, "normalise": True}),
    ("cosine", {"temperature": 0.5}),
    ("etf", {"scale": 3.0}),
    ("frame", {"normalise": True}),
  ],
)
def test_the_classifier_is_the_head(name, options, dim):
  head = heads.build(name, num_classes=5, **options)
  features = jax.random.normal(jax.random.key(0), (40, dim))
  if head.normalise:
    features /= jnp.linalg.norm(features, axis=1, keepdims=True)
  params = head.init(jax.random.key(1), features).get("params", {})
  logits = head.apply({"params": params}, features.astype(jnp.bfloat16))
  assert logits.shape == (40, 5) and logits.dtype == jnp.float32
  logits = head.apply({"params": params}, features)
  weight, bias = head.classifier(params, dim)
  assert weight.shape == (5, dim)
  expected = features @ weight.T + (0 if bias is None else bias)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
  assert len(np.unique(np.argmax(logits, 1))) > 1


def test_parameters_and_their_initial_values():
  features = jnp.ones((1, 400))
  shapes = lambda name, **options: jax.tree.map(
    jnp.shape, heads.build(name, num_classes=30, **options).init(jax.random.key(0), features)
  )
  assert shapes("linear") == {"params": {"kernel": (400, 30), "bias": (30,)}}
  assert shapes("linear", bias=False) == shapes("cosine") == {"params": {"kernel": (400, 30)}}
  assert shapes("etf") == shapes("frame") == {}
  params = heads.build("linear", num_classes=30).init(jax.random.key(0), features)["params"]
  assert float(params["kernel"].std()) == pytest.approx(np.sqrt(2 / 400), rel=0.02)
  assert not params["bias"].any()


def test_the_cosine_head_s_logits_are_cosines_over_the_temperature():
  head = heads.build("cosine", num_classes=3, temperature=0.25)
  kernel = np.random.default_rng(0).normal(size=(8, 3))
  features = (kernel / np.linalg.norm(kernel, axis=0)).T
  logits = head.apply({"params": {"kernel": 7 * kernel}}, features)
  np.testing.assert_allclose(np.diag(logits), 4.0, rtol=1e-5)
  assert np.abs(logits).max() <= 4.0001


@pytest.mark.parametrize("classes, dim", [(2, 1), (4, 3), (10, 9), (10, 64), (100, 128)])
def test_the_simplex_is_an_equiangular_tight_frame(classes, dim):
  rows = np.float64(frames.simplex(classes, dim, 0))
  np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
  np.testing.assert_allclose(cosines(rows), -1 / (classes - 1), atol=1e-6)
  np.testing.assert_allclose(rows.sum(0), 0, atol=1e-5)


@pytest.mark.parametrize("name, classes, dim", [("etf", 5, 4), ("frame", 5, 3), ("frame", 7, 3)])
def test_the_seed_alone_turns_a_frame(name, classes, dim):
  rows = lambda seed: heads.build(name, num_classes=classes, seed=seed).classifier({}, dim)[0]
  clear = lambda: (frames.simplex.cache_clear(), frames.spread.cache_clear())
  clear()
  first = rows(0)
  clear()
  np.testing.assert_array_equal(first, rows(0))
  assert np.abs(first - rows(1)).max() > 0.1


@pytest.mark.parametrize(
  "classes, dim, largest",
  [
    (4, 3, -1 / 3),  # the simplex
    (5, 2, np.cos(2 * np.pi / 5)),  # the regular pentagon
    (6, 3, 0.0),  # the octahedron
    (9, 6, 0.0),  # Rankin's bound for D + 1 < K <= 2D
    (100, 64, 0.0),
    (8, 3, 0.2612038749637415),  # the square antiprism; Schuette & van der Waerden 1951
    (12, 3, 1 / np.sqrt(5)),  # the icosahedron
    (16, 5, 0.2),  # the hemicube
  ],
)
def test_a_frame_is_as_spread_as_can_be(classes, dim, largest):
  rows = frames.spread(classes, dim, 3)
  np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
  assert cosines(rows).max() == pytest.approx(largest, abs=3e-4)


def test_a_detached_head_does_not_move_the_body():
  """The contrast alone reaches the body, and cross-entropy alone the head."""
  rng = np.random.default_rng(0)
  inputs, body = np.float32(rng.normal(size=(6, 5))), np.float32(rng.normal(size=(5, 4)))
  labels = jnp.array([0, 1, 2, 0, 1, 2])
  head = heads.build("linear", num_classes=3, detached=True)
  params = {"kernel": np.float32(rng.normal(size=(4, 3))), "bias": np.zeros(3, np.float32)}
  read = lambda params, features: head.apply({"params": params}, features)

  def gradients(name, read=read):
    loss = losses.build(name)
    objective = lambda b, p: loss(read(p, inputs @ b), labels, inputs @ b).mean()
    return jax.jit(jax.grad(objective, (0, 1)))(body, params)

  both, entropy = gradients("supervised_contrastive"), gradients("cross_entropy")
  contrast = gradients("supervised_contrastive", lambda *_: jnp.zeros((6, 3)))
  np.testing.assert_allclose(both[0], contrast[0], rtol=1e-5, atol=1e-7)
  assert not entropy[0].any() and np.abs(contrast[0]).max() > 0.01
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)
  jax.tree.map(close, both[1], entropy[1])
  assert np.abs(entropy[1]["kernel"]).max() > 0.01


def test_what_cannot_be_built_is_said_in_one_line():
  with pytest.raises(UserError, match="K <= D [+] 1, but there are K = 6 classes and D = 4 feat"):
    jax.eval_shape(heads.build("etf", num_classes=6).init, jax.random.key(0), jnp.ones((1, 4)))
  with pytest.raises(UserError, match="config.head.temperature = 0.1, but linear has no such opt"):
    heads.build("linear", num_classes=3, temperature=0.1, bias=None)
