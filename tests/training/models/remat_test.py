"""With remat a network is the same, and keeps less for its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nc_jax.training.models.convnet import ConvNet
from nc_jax.training.models.deep_linear import DeepLinear
from nc_jax.training.models.densenet import DenseNet
from nc_jax.training.models.mlp import MLP
from nc_jax.training.models.resnet import BasicBlock, ResNet
from nc_jax.training.models.vgg import VGG
from nc_jax.training.models.vit import ViT

NETWORKS = {  # small, for compiling them takes long
  "mlp": lambda **options: MLP(width=16, depth=3, **options),
  "deep_linear": lambda **options: DeepLinear(width=8, depth=2, **options),
  "convnet": lambda **options: ConvNet(width=4, depth=1, **options),
  "resnet": lambda **options: ResNet(block=BasicBlock, blocks=(1, 1, 0, 0), width=2, **options),
  "vgg": lambda **options: VGG(convs=(1, 1, 0, 0, 0), width=2, **options),
  "densenet": lambda **options: DenseNet(layers=(2,), bottleneck=True, width=2, **options),
  "vit": lambda **options: ViT(width=8, depth=1, **options),
}
# A compiler that spends nothing on optimising, which has no part in this.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def problem(name, batch):
  """Random variables, and for both settings of remat: params -> (value, (taps, updates))."""
  rng = np.random.default_rng(0)
  side = 32 if name == "vgg" else 8
  images = np.float32(rng.normal(size=(batch, side, side, 3)))
  bodies = [NETWORKS[name](remat=remat) for remat in (False, True)]
  shapes, others = (
    jax.eval_shape(lambda x, b=body: b.init(jax.random.key(0), x, train=False), images)
    for body in bodies
  )
  assert shapes == others
  variables = jax.tree.map(lambda s: np.float32(rng.uniform(0.2, 1, s.shape)), shapes)

  def value_of(body):
    def value(params):
      changed = variables | {"params": params}
      taps, updates = body.apply(changed, images, train=True, mutable=["batch_stats"])
      return jnp.mean(taps["penultimate"] ** 2), (taps, updates)

    return value

  return variables["params"], *map(value_of, bodies)


def kept(value, params) -> int:
  """Numbers that are kept from the forward pass for the backward one, the parameters apart."""
  pullback = jax.eval_shape(lambda p: jax.vjp(lambda p: value(p)[0], p)[1], params)
  size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  return size(pullback) - size(params)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_the_same_with_the_same_gradient(name):
  params, *both = problem(name, batch=2)
  expected, found = (
    jax.jit(jax.value_and_grad(value, has_aux=True), compiler_options=QUICK)(params)
    for value in both
  )
  assert jax.tree.structure(found) == jax.tree.structure(expected)  # taps and statistics too
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
  assert max(np.abs(g).max() for g in jax.tree.leaves(found[1])) > 0


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"deep_linear"}))  # has nothing to forget
def test_less_is_kept_for_the_gradient(name):
  params, plain, again = problem(name, batch=256)
  assert kept(again, params) < 0.6 * kept(plain, params)


def test_the_compiled_gradient_takes_less_memory_where_the_compiler_lets_it():
  """On CPUs XLA merges again what was to be computed twice, but for this flag."""
  flag = {"xla_disable_hlo_passes": "cse_barrier_expander"}
  params, *both = problem("mlp", batch=2048)
  taken = []
  for value in both:
    gradient = jax.jit(jax.grad(lambda p, f=value: f(p)[0]), compiler_options=flag)
    taken.append(gradient.lower(params).compile().memory_analysis().temp_size_in_bytes)
  assert taken[1] < 0.8 * taken[0]
