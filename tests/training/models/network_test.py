import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nc_jax.training import models


class Linear(nn.Module):
  num_classes: int
  normalise: bool = False

  @nn.compact
  def __call__(self, features):
    kernel = self.param("kernel", nn.initializers.normal(), (features.shape[-1], self.num_classes))
    return features @ kernel

  def classifier(self, params, dim):
    assert params["kernel"].shape[0] == dim
    return params["kernel"].T, None


class Fixed(nn.Module):
  """A head without parameters: the first K features."""

  num_classes: int

  def __call__(self, features):
    return features[:, : self.num_classes]

  def classifier(self, params, dim):
    assert params == {}
    return jnp.eye(self.num_classes, dim), None


IMAGES = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)


def body(dtype="float32"):
  return models.build("convnet", width=4, depth=2, dtype=dtype, image_shape=(8, 8, 3))


def applied(network):
  variables = jax.jit(network.init)(jax.random.key(0), IMAGES[:1])
  return variables, *jax.jit(lambda v, x: network.apply(v, x, train=False))(variables, IMAGES)


def test_maps_are_pooled_as_their_name_says():
  variables, _, averages = applied(models.Network(body(), Linear(3)))
  _, _, flat = applied(models.Network(body(), Linear(3), tap_pooling="flatten"))
  maps = body().apply(
    {kind: tree["body"] for kind, tree in variables.items()}, IMAGES, train=False
  )
  assert list(averages) == ["block1.average", "block2.average", "penultimate"]  # jit kept the order
  assert list(flat) == ["block1.flatten", "block2.flatten", "penultimate"]
  for name in ("block1", "block2"):
    x = np.asarray(maps[name])
    np.testing.assert_allclose(averages[f"{name}.average"], x.mean((1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(flat[f"{name}.flatten"], x.reshape(6, -1), rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(averages["penultimate"], flat["penultimate"])


def test_penultimate_is_what_the_head_reads():
  network = models.Network(body("bfloat16"), Linear(3))
  variables, logits, layers = applied(network)
  weight, bias = network.classifier(variables["params"], 4)
  assert bias is None and weight.shape == (3, 4)
  np.testing.assert_allclose(logits, layers["penultimate"] @ weight.T, rtol=1e-5, atol=1e-6)
  assert {x.dtype for x in (logits, *layers.values())} == {jnp.dtype("float32")}


def test_a_head_may_want_its_features_on_the_sphere():
  _, _, plain = applied(models.Network(body(), Linear(3)))
  network = models.Network(body(), Linear(3, normalise=True))
  variables, logits, layers = applied(network)
  length = np.linalg.norm(plain["penultimate"], axis=1, keepdims=True)
  assert (length > 1e-3).all()
  np.testing.assert_allclose(layers["penultimate"], plain["penultimate"] / length, rtol=1e-5)
  weight, _ = network.classifier(variables["params"], 4)
  np.testing.assert_allclose(logits, layers["penultimate"] @ weight.T, rtol=1e-5, atol=1e-6)

  dead = jax.tree.map(jnp.zeros_like, variables)  # all features are 0
  loss = lambda params: network.apply({**dead, "params": params}, IMAGES, train=False)[0].sum()
  gradient = jax.grad(loss)(dead["params"])
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_a_head_may_have_no_parameters():
  network = models.Network(body(), Fixed(2))
  variables, logits, layers = applied(network)
  weight, _ = network.classifier(variables["params"], 4)
  np.testing.assert_allclose(logits, layers["penultimate"] @ weight.T, rtol=1e-6)


def test_the_body_is_initialised_as_if_it_stood_alone():
  """So the seed that gave a network its numbers gives them still, whatever it is joined with."""
  mlp = models.build("mlp", width=8, depth=2, image_shape=(8, 8, 3))
  joined = models.Network(mlp, Linear(3)).init(jax.random.key(0), IMAGES[:1], train=False)
  alone = mlp.init(jax.random.key(0), IMAGES[:1], train=False)
  for kind in ("params", "batch_stats"):
    jax.tree.map(np.testing.assert_array_equal, joined[kind]["body"], alone[kind])
  assert list(joined["params"]) == ["body", "head"]
