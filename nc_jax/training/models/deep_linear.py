"""The deep linear network: the model in which collapse can be proved."""

import flax.linen as nn
import jax

from nc_jax.training.models.layers import Body


class DeepLinear(Body, kw_only=True):
  """`h = W_depth ... W_2 W_1 x`: `depth` linear layers of `width` units, no bias, norm or ReLU.

  Tapped are the outputs of the layers: `layer1`, `layer2`, ... and, for the last, `penultimate`,
  each [B, width]. Initialised with variance 1 / fan-in, which keeps the size of what goes through
  where there is no ReLU to halve it.

  Saxe et al. 2013, arXiv 1312.6120; collapse in it: Dang et al. 2023, arXiv 2301.00437.
  """

  width: int = 128
  depth: int = 4

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
    x = images.reshape(len(images), -1)
    taps = {}
    for layer in range(1, self.depth + 1):
      x = nn.Dense(
        self.width,
        use_bias=False,
        kernel_init=nn.initializers.lecun_normal(),
        dtype=self.dtype,
        name=f"linear{layer}",
      )(x)
      taps["penultimate" if layer == self.depth else f"layer{layer}"] = x
    return taps
