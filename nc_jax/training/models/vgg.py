"""VGG networks with batch norm: VGG-11, 13 and 19."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nc_jax.training.models.layers import Body, global_average, max_pool


class VGG(Body, kw_only=True):
  """Five stages of 3x3 convolutions (with bias), batch norm and ReLU, each before a max-pool.

  The stages have 1, 2, 4, 8 and 8 x `width` channels; 64 is published. What follows them depends
  on `stem`:
    "small"     the average over space, [B, 8 width], is the penultimate layer: the usual form for
                32x32 images, one linear layer in all (github.com/kuangliu/pytorch-cifar).
    "imagenet"  the maps, pooled to 7x7, pass two linear layers of 64 x `width` units with ReLU, as
                in the paper. Its dropout is not applied: collapse is about deterministic features.

  Tapped are the maps of each convolution after ReLU, `stage1_conv1`, ..., for the "imagenet" form
  also the first linear layer, `hidden1` [B, 64 width], and `penultimate`. Convolutions are
  initialised by He's rule with fan-out, linear layers with deviation 0.01, as in torchvision.

  Simonyan & Zisserman 2014, arXiv 1409.1556.
  """

  convs: tuple[int, int, int, int, int]
  width: int = 64
  stem: str = "small"

  def least_side(self) -> int:
    return {"small": 32, "imagenet": 64}[self.stem]

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
    x = images
    taps = {}
    for stage, convs in enumerate(self.convs, start=1):
      for conv in range(1, convs + 1):
        x = taps[f"stage{stage}_conv{conv}"] = self.section(VGG._layer, x, stage, conv, train)
      x = max_pool(x)
    if self.stem == "small":
      return taps | {"penultimate": global_average(x)}

    x = _adaptive_average(x, 7).reshape(len(x), -1)
    for layer, name in enumerate(("hidden1", "penultimate"), start=1):
      x = nn.Dense(
        64 * self.width,
        kernel_init=nn.initializers.normal(0.01),
        dtype=self.dtype,
        name=f"linear{layer}",
      )(x)
      x = taps[name] = nn.relu(x)
    return taps

  def _layer(self, x: jax.Array, stage: int, conv: int, train: bool) -> jax.Array:
    channels = self.width * 2 ** min(stage - 1, 3)
    x = self.conv(channels, 3, bias=True, name=f"stage{stage}_conv{conv}")(x)
    return nn.relu(self.norm(train, name=f"stage{stage}_norm{conv}")(x))


def _adaptive_average(x: jax.Array, side: int) -> jax.Array:
  """[B, H, W, C] -> [B, side, side, C]: place i is the mean of rows ⌊iH/side⌋ to ⌈(i+1)H/side⌉ - 1.

  Columns alike. PyTorch's AdaptiveAvgPool2d, which also enlarges.
  """
  rows, columns = (_shares(size, side) for size in x.shape[1:3])
  exact = jax.lax.Precision.HIGHEST
  pooled = jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x.astype(jnp.float32), precision=exact)
  return pooled.astype(x.dtype)


def _shares(size: int, side: int) -> np.ndarray:
  shares = np.zeros((side, size), np.float32)
  for i in range(side):
    first, last = i * size // side, -(-(i + 1) * size // side)
    shares[i, first:last] = 1 / (last - first)
  return shares
