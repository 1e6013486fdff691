"""Heads by name: what turns the features [B, D] into logits [B, K]. Always in float32.

Every head has `normalise`: whether its features lie on the sphere. The network sees to that,
before it taps them, so that `penultimate` is exactly what the head reads.

Every head has `detached`: whether it learns without moving the body (see losses.FEATURE_LOSSES).

And every head has `classifier(params, dim) -> (weight [K, D], bias [K] or None)`, the linear map
that it is, from which the metrics are measured.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nc_jax.training import frames
from nc_jax.training.choices import choose

_KERNEL = nn.initializers.he_normal()  # He et al. 2015, arXiv 1502.01852


class Linear(nn.Module):
  """`logits = W h + b`. Parameters: kernel = Wᵀ [D, K], and bias [K] unless `bias` is off.

  With `normalise`: `W h/‖h‖ + b`, features on the sphere. Yaras et al. 2022, arXiv 2209.09211.
  """

  num_classes: int
  bias: bool = True
  normalise: bool = False
  detached: bool = False

  @nn.compact
  def __call__(self, features: jax.Array) -> jax.Array:
    features = _read(features, self.detached)
    logits = features @ self.param("kernel", _KERNEL, (features.shape[-1], self.num_classes))
    if self.bias:
      logits += self.param("bias", nn.initializers.zeros, (self.num_classes,))
    return logits

  def classifier(self, params: dict, dim: int):
    return params["kernel"].T, params.get("bias")


class Cosine(nn.Module):
  """`logit_k = cos(w_k, h) / temperature`. Parameters: kernel [D, K], whose columns are the w_k.

  Features always lie on the sphere. Yaras et al. 2022, arXiv 2209.09211.
  """

  num_classes: int
  temperature: float = 0.2
  detached: bool = False
  normalise = True

  @nn.compact
  def __call__(self, features: jax.Array) -> jax.Array:
    features = _read(features, self.detached)
    kernel = self.param("kernel", _KERNEL, (features.shape[-1], self.num_classes))
    return features @ self._weight(kernel).T

  def classifier(self, params: dict, dim: int):
    return self._weight(params["kernel"]), None

  def _weight(self, kernel):
    return kernel.T / jnp.linalg.norm(kernel.T, axis=1, keepdims=True) / self.temperature


class Fixed(nn.Module):
  """`logits = scale · E h`, with rows of E that were chosen once and are never learned.

  No parameters. `frame(K, D, seed)` gives E [K, D], rows of length 1.
  """

  frame: Callable[[int, int, int], np.ndarray]
  num_classes: int
  scale: float = 1.0
  seed: int = 0
  normalise: bool = False
  detached: bool = False

  @nn.compact
  def __call__(self, features: jax.Array) -> jax.Array:
    return _read(features, self.detached) @ self._weight(features.shape[-1]).T

  def classifier(self, params: dict, dim: int):
    return jnp.asarray(self._weight(dim)), None

  def _weight(self, dim: int) -> np.ndarray:
    return np.float32(self.scale) * self.frame(self.num_classes, dim, self.seed)


def _read(features, detached: bool):
  features = features.astype(jnp.float32)
  return jax.lax.stop_gradient(features) if detached else features


HEADS = {
  "linear": Linear,
  "cosine": Cosine,
  # Zhu et al. 2021, arXiv 2105.02375; Yang et al. 2022, arXiv 2203.09081
  "etf": partial(Fixed, frames.simplex),
  # Jiang et al. 2023, arXiv 2310.05351
  "frame": partial(Fixed, frames.spread),
}


def build(name: str, *, num_classes: int, detached: bool = False, **options) -> nn.Module:
  """The head `name`. Options are keys of config.head; None stands for the head's own default.

  Raises UserError for an option that this head does not take.
  """
  return choose("head", HEADS, name, options, num_classes=num_classes, detached=detached)
