"""The multi-layer perceptron of the embedded default."""

import flax.linen as nn
import jax

from nc_jax.training.models.layers import Body


class MLP(Body, kw_only=True):
  """`depth` hidden layers (linear, batch norm, ReLU) of `width` units. He initialisation.

  Tapped are the outputs of the hidden layers: `layer1`, `layer2`, ... and, for the last,
  `penultimate`, each [B, width].

  He et al. 2015, arXiv 1502.01852; Ioffe & Szegedy 2015, arXiv 1502.03167.
  """

  width: int = 128
  depth: int = 4
  batch_norm: bool = True

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
    x = images.reshape(len(images), -1)
    taps = {}
    for layer in range(1, self.depth + 1):
      x = self.section(MLP._layer, x, layer, train)
      taps["penultimate" if layer == self.depth else f"layer{layer}"] = x
    return taps

  def _layer(self, x: jax.Array, layer: int, train: bool) -> jax.Array:
    x = nn.Dense(
      self.width,
      kernel_init=nn.initializers.he_normal(),
      dtype=self.dtype,
      name=f"linear{layer}",
    )(x)
    if self.batch_norm:
      x = self.norm(train, name=f"norm{layer}")(x)
    return nn.relu(x)
