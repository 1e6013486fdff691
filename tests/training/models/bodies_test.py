"""What the networks compute, against the same written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nc_jax.training import models
from nc_jax.training.models.deep_linear import DeepLinear
from nc_jax.training.models.densenet import DenseLayer
from nc_jax.training.models.mlp import MLP
from nc_jax.training.models.resnet import BasicBlock, Bottleneck, ResNet
from nc_jax.training.models.vgg import VGG, _adaptive_average
from nc_jax.training.models.vit import ViT

rng = np.random.default_rng(0)


def initial(module, x):
  return jax.jit(lambda x: module.init(jax.random.key(0), x, train=False))(x)


def random_variables(module, x):
  """Initial variables with every entry, running statistics too, moved away from 0 and 1."""
  variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), x)
  return jax.tree.map(lambda v: jnp.float32(rng.uniform(0.2, 1.0, v.shape)), variables)


def conv(x, kernel, stride):
  size = kernel.shape[0]
  padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
  height, width = (-(-side // stride) for side in x.shape[1:3])
  out = 0
  for i in range(size):
    for j in range(size):
      seen = padded[:, i : i + stride * height : stride, j : j + stride * width : stride]
      out = out + seen[:, :height, :width] @ kernel[i, j]
  return out


def norm(x, params, stats):
  scale = params["scale"] / np.sqrt(stats["var"] + 1e-5)
  return (x - stats["mean"]) * scale + params["bias"]


def relu(x):
  return np.maximum(x, 0)


@pytest.mark.parametrize(
  "block, strides, expansion", [(BasicBlock, (2, 1), 1), (Bottleneck, (1, 2, 1), 4)]
)
def test_a_residual_block_is_its_formula(block, strides, expansion):
  """Stride 2, so that the shortcut is a convolution; ResNet-50 strides in its 3x3 (v1.5)."""
  x = rng.normal(size=(2, 6, 6, 4)).astype(np.float32)
  module = block(channels=4, stride=2)
  variables = random_variables(module, x)
  p, s = jax.tree.map(np.float64, (variables["params"], variables["batch_stats"]))
  y = x
  for i, stride in enumerate(strides, start=1):
    y = norm(conv(y, p[f"conv{i}"]["kernel"], stride), p[f"norm{i}"], s[f"norm{i}"])
    y = relu(y) if i < len(strides) else y
  shortcut = conv(x, p["conv_shortcut"]["kernel"], 2)
  expected = relu(norm(shortcut, p["norm_shortcut"], s["norm_shortcut"]) + y)
  got = module.apply(variables, x, train=False)
  assert got.shape == (2, 3, 3, 4 * expansion) and (expected > 0).any() and (expected == 0).any()
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_a_dense_layer_appends_to_what_it_saw():
  x = rng.normal(size=(2, 3, 3, 5)).astype(np.float32)
  module = DenseLayer(growth=2, bottleneck=True)
  variables = random_variables(module, x)
  p, s = jax.tree.map(np.float64, (variables["params"], variables["batch_stats"]))
  y = relu(norm(x, p["norm_bottleneck"], s["norm_bottleneck"]))
  y = relu(norm(conv(y, p["conv_bottleneck"]["kernel"], 1), p["norm1"], s["norm1"]))
  got = module.apply(variables, x, train=False)
  np.testing.assert_array_equal(got[..., :5], x)
  np.testing.assert_allclose(got[..., 5:], conv(y, p["conv1"]["kernel"], 1), rtol=1e-4)


def test_the_deep_linear_net_is_a_product_of_matrices():
  x = rng.normal(size=(3, 2, 2, 1)).astype(np.float32)
  module = DeepLinear(width=5, depth=3)
  variables = random_variables(module, x)
  expected = x.reshape(3, -1)
  for layer in (1, 2, 3):
    expected = expected @ variables["params"][f"linear{layer}"]["kernel"]
  taps = module.apply(variables, x, train=True)
  np.testing.assert_allclose(taps["penultimate"], expected, rtol=1e-5)


@pytest.mark.parametrize("size", [2, 7, 10])
def test_adaptive_average_is_pytorchs(size):
  x = rng.normal(size=(2, size, size, 3)).astype(np.float32)
  got = _adaptive_average(jnp.asarray(x), 7)
  for i in range(7):
    for j in range(7):
      rows, columns = (slice(k * size // 7, int(np.ceil((k + 1) * size / 7))) for k in (i, j))
      expected = x[:, rows, columns].mean((1, 2))
      np.testing.assert_allclose(got[:, i, j], expected, rtol=1e-5, atol=1e-6)


def test_initialisation_is_that_of_the_references():
  def deviation(module, x, *path):
    leaf = initial(module, x)["params"]
    for key in path:
      leaf = leaf[key]
    return float(np.std(leaf))

  maps = jnp.zeros((1, 2, 2, 64))
  block = BasicBlock(channels=128, stride=2)
  fan_out = np.sqrt(2 / (9 * 128))  # fan-in would be np.sqrt(2 / (9 * 64))
  assert deviation(block, maps, "conv1", "kernel") == pytest.approx(fan_out, rel=0.02)
  params = initial(block, maps)["params"]
  assert (params["norm1"]["scale"] == 1).all() and (params["norm1"]["bias"] == 0).all()

  images = jnp.zeros((1, 64, 64, 1))
  vgg = VGG(convs=(1, 1, 1, 1, 1), width=4, stem="imagenet")
  assert deviation(vgg, images, "linear2", "kernel") == pytest.approx(0.01, rel=0.02)
  vit = ViT(width=64, depth=1)
  cut = 0.8796 * 0.02  # of a normal cut at two deviations
  query = ("block1", "attention", "query", "kernel")
  assert deviation(vit, images[:, :8, :8], *query) == pytest.approx(cut, rel=0.03)
  he = np.sqrt(2 / 400)
  mlp = MLP(width=400, depth=2)
  assert deviation(mlp, maps, "linear2", "kernel") == pytest.approx(he, rel=0.02)


def test_heads_of_the_vit_divide_its_width():
  for width, heads in ((192, 3), (64, 1), (40, 1), (200, 2)):
    params = jax.eval_shape(
      lambda x, w=width: ViT(width=w, depth=1).init(jax.random.key(0), x, train=False),
      jnp.zeros((1, 8, 8, 1)),
    )["params"]
    assert params["block1"]["attention"]["query"]["kernel"].shape == (width, heads, width // heads)


def test_bfloat16_is_close_to_float32():
  images = rng.normal(size=(16, 8, 8, 3)).astype(np.float32)
  outcomes = []
  for dtype in models.PRECISIONS:
    body = ResNet(block=BasicBlock, blocks=(1, 1, 1, 1), width=4, dtype=jnp.dtype(dtype))
    variables = initial(body, images)
    taps, updates = jax.jit(
      lambda v, body=body: body.apply(v, images, train=True, mutable=["batch_stats"])
    )(variables)
    outcomes.append((taps["stage4_block1"], updates["batch_stats"]["stage4_block1"]["norm2"]))
  (exact, stats), (rough, rough_stats) = outcomes
  error = np.linalg.norm(np.float32(rough) - exact) / np.linalg.norm(exact)
  assert 1e-4 < error < 0.03  # some twenty roundings of 2^-9 = 0.002
  for key in ("mean", "var"):
    assert rough_stats[key].dtype == np.float32
    np.testing.assert_allclose(rough_stats[key], stats[key], rtol=0.02, atol=0.01)
