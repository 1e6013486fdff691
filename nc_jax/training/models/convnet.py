"""A small convolutional network."""

import flax.linen as nn
import jax

from nc_jax.training.models.layers import Body, global_average, max_pool


class ConvNet(Body, kw_only=True):
  """`depth` blocks of 3x3 convolution to `width` channels, batch norm, ReLU and 2x2 max-pool.

  Four blocks of 64 channels are the usual small network of few-shot learning (Vinyals et al. 2016,
  arXiv 1606.04080); unlike there, the last maps are averaged over space, not flattened. Without
  batch norm the convolutions have a bias.

  Tapped are the maps after ReLU, before the pool: `block1`, `block2`, ...; then `penultimate`
  [B, width]. He initialisation by fan-out.
  """

  width: int = 64
  depth: int = 4
  batch_norm: bool = True

  def least_side(self) -> int:
    return 2**self.depth

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
    x = images
    taps = {}
    for block in range(1, self.depth + 1):
      x = taps[f"block{block}"] = self.section(ConvNet._block, x, block, train)
      x = max_pool(x)
    return taps | {"penultimate": global_average(x)}

  def _block(self, x: jax.Array, block: int, train: bool) -> jax.Array:
    x = self.conv(self.width, 3, bias=not self.batch_norm, name=f"conv{block}")(x)
    if self.batch_norm:
      x = self.norm(train, name=f"norm{block}")(x)
    return nn.relu(x)
