"""A small vision transformer."""

import flax.linen as nn
import jax

from nc_jax.training.models.convolution import convolution
from nc_jax.training.models.layers import Body, global_average

_normal = nn.initializers.truncated_normal(0.02)


class TransformerBlock(Body, kw_only=True):
  """The pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)), 4 times as wide inside."""

  heads: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = _layer_norm(self, "norm1")(x)
    x = x + nn.MultiHeadDotProductAttention(
      self.heads,
      dtype=self.dtype,
      kernel_init=_normal,
      force_fp32_for_softmax=True,
      name="attention",
    )(y)
    width = x.shape[-1]
    y = _layer_norm(self, "norm2")(x)
    y = nn.Dense(4 * width, kernel_init=_normal, dtype=self.dtype, name="linear1")(y)
    y = nn.gelu(y, approximate=False)
    return x + nn.Dense(width, kernel_init=_normal, dtype=self.dtype, name="linear2")(y)


def _layer_norm(module: Body, name: str):
  return nn.LayerNorm(epsilon=1e-6, dtype=module.dtype, use_fast_variance=False, name=name)


class ViT(Body, kw_only=True):
  """`depth` transformer blocks of `width` channels on patches of the image, with learned positions.

  The defaults are the sizes of DeiT-Ti. Patches are 4x4 pixels ("small" stem) or 16x16
  ("imagenet"); a side that
  they do not divide is padded with zeros at its end. Heads have 64 channels each,
  or more where the width is no multiple of 64.

  The last tokens are normed and averaged; there is no class token. So every token's features are
  asked to collapse, and `penultimate` is to the last block what the averaged taps are to the
  others. (It is also the better choice for small ones: Beyer et al. 2022, arXiv 2205.01580.)

  Tapped are the tokens after each block, `block1`, ..., [B, T, width], and `penultimate`. All
  linear maps and positions are drawn from a normal of deviation 0.02, cut at two deviations.

  Dosovitskiy et al. 2020, arXiv 2010.11929; Touvron et al. 2020, arXiv 2012.12877.
  """

  width: int = 192
  depth: int = 12
  stem: str = "small"

  def least_side(self) -> int:
    return {"small": 4, "imagenet": 64}[self.stem]

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
    patch = {"small": 4, "imagenet": 16}[self.stem]
    x = nn.Conv(
      self.width,
      (patch, patch),
      patch,
      padding=[(0, -side % patch) for side in images.shape[1:3]],
      kernel_init=_normal,
      conv_general_dilated=convolution,
      dtype=self.dtype,
      name="patches",
    )(images)
    x = x.reshape(len(x), -1, self.width)  # [B, T, width]
    x = x + self.param("positions", _normal, x.shape[1:]).astype(x.dtype)
    most = max(1, self.width // 64)
    heads = next(n for n in range(most, 0, -1) if self.width % n == 0)
    taps = {}
    for block in range(1, self.depth + 1):
      name = f"block{block}"
      x = taps[name] = self.section(ViT._block, x, heads, name)
    return taps | {"penultimate": global_average(_layer_norm(self, "norm_last")(x))}

  def _block(self, x: jax.Array, heads: int, name: str) -> jax.Array:
    return TransformerBlock(heads=heads, dtype=self.dtype, name=name)(x)
