"""A body and a head, joined: images in, logits and named features out."""

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp

from nc_jax.training.models.layers import global_average

PENULTIMATE = "penultimate"
# The network's own output. Not a tap: its rows are the loss and the error of the whole network.
LOGITS = "logits"


def _flatten(x: jax.Array) -> jax.Array:
  return x.reshape(len(x), -1)


TAP_POOLINGS = {"average": global_average, "flatten": _flatten}


class Network(nn.Module):
  """`network(images [B, H, W, C], train) -> (logits [B, K], {layer: features [B, D]})`, float32.

  The layers are those of the body, in its order. Maps [B, H, W, C] and tokens [B, T, C] become
  vectors here, and the layer's name says how: `stage1_block2.average` has D = C,
  `stage1_block2.flatten` has D = H W C. Vectors keep their name. The last layer, `penultimate`,
  is exactly what the head reads: for a head that wants features on the sphere, h / ||h||.

  Attributes:
    body: see `layers.Body`.
    head: a module, features [B, D] -> logits [B, K], with a method `classifier(params, dim)`, and
      with an attribute `normalise = True` if it wants its features on the sphere.
    tap_pooling: "average" or "flatten".
  """

  body: nn.Module
  head: nn.Module
  tap_pooling: str = "average"

  def __call__(self, images: jax.Array, train: bool):
    taps = self.body(images, train)
    features = taps[PENULTIMATE].astype(jnp.float32)
    if getattr(self.head, "normalise", False):
      features = _on_the_sphere(features)
    layers = collections.OrderedDict()  # jax sorts the keys of a dict that leaves a transformation
    for name, x in (taps | {PENULTIMATE: features}).items():
      if x.ndim > 2:
        name, x = f"{name}.{self.tap_pooling}", TAP_POOLINGS[self.tap_pooling](x)
      layers[name] = x.astype(jnp.float32)
    return self.head(features), layers

  def init(self, key: jax.Array, images: jax.Array, train: bool = False) -> dict:
    """Untrained variables, {"params": {"body": ..., "head": ...}, "batch_stats": {"body": ...}}.

    The body's are those of `body.init(key, images, train)`, as if it stood alone.
    """
    variables = super().init(key, images, train)
    for kind, tree in self.body.init(key, images, train).items():
      variables[kind]["body"] = tree
    return variables

  def classifier(self, params: dict, dim: int) -> tuple[jax.Array, jax.Array | None]:
    """The head as a linear classifier of penultimate features [B, dim]: weight [K, D], bias [K].

    From the network's `params`; the bias is None if the head has none.
    """
    return self.head.classifier(params.get("head", {}), dim)  # a fixed head has no parameters


def _on_the_sphere(features: jax.Array) -> jax.Array:
  """h / ||h||; a feature shorter than 1e-6 is only scaled by 1e6, so that 0 has a gradient."""
  square = jnp.sum(features**2, axis=-1, keepdims=True)
  return features * jax.lax.rsqrt(jnp.maximum(square, 1e-12))
