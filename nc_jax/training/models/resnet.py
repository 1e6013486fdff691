"""Residual networks: ResNet-18, 34 and 50."""

import flax.linen as nn
import jax

from nc_jax.training.models.layers import Body, global_average, max_pool


class BasicBlock(Body, kw_only=True):
  """relu(shortcut(x) + f(x)) where f is two 3x3 convolutions, each with batch norm."""

  channels: int
  stride: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    y = self.conv(self.channels, 3, self.stride, name="conv1")(x)
    y = nn.relu(self.norm(train, name="norm1")(y))
    y = self.conv(self.channels, 3, name="conv2")(y)
    y = self.norm(train, name="norm2")(y)
    return nn.relu(_shortcut(self, x, y, train) + y)


class Bottleneck(Body, kw_only=True):
  """relu(shortcut(x) + f(x)) where f is 1x1, 3x3 and 1x1 convolutions to 4 x channels.

  The 3x3 convolution strides ("v1.5"), not the first 1x1 as in the paper.
  """

  channels: int
  stride: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    y = self.conv(self.channels, 1, name="conv1")(x)
    y = nn.relu(self.norm(train, name="norm1")(y))
    y = self.conv(self.channels, 3, self.stride, name="conv2")(y)
    y = nn.relu(self.norm(train, name="norm2")(y))
    y = self.conv(4 * self.channels, 1, name="conv3")(y)
    y = self.norm(train, name="norm3")(y)
    return nn.relu(_shortcut(self, x, y, train) + y)


def _shortcut(block, x: jax.Array, y: jax.Array, train: bool) -> jax.Array:
  """x itself or, where y has another shape, a strided 1x1 convolution with batch norm."""
  if x.shape == y.shape:
    return x
  x = block.conv(y.shape[-1], 1, block.stride, name="conv_shortcut")(x)
  return block.norm(train, name="norm_shortcut")(x)


class ResNet(Body, kw_only=True):
  """Four stages of residual blocks with `width`, 2, 4 and 8 x `width` channels; 64 is published.

  The stem is a 3x3 convolution ("small", for 32x32 images) or a strided 7x7 convolution and a
  strided 3x3 max-pool ("imagenet"); stages 2 to 4 halve the side.

  Tapped are `stem`, every block's output as `stage1_block1`, ... and `penultimate`, the last
  block averaged over space. Convolutions are initialised by He's rule with fan-out, norms as
  identities, as in torchvision.

  He et al. 2015, arXiv 1512.03385.
  """

  block: type[Body]
  blocks: tuple[int, int, int, int]
  width: int = 64
  stem: str = "small"

  def least_side(self) -> int:
    return {"small": 8, "imagenet": 64}[self.stem]

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
    small = self.stem == "small"
    x = self.conv(self.width, *((3, 1) if small else (7, 2)), name="stem_conv")(images)
    x = nn.relu(self.norm(train, name="stem_norm")(x))
    taps = {"stem": x if small else max_pool(x, 3, padding=1)}
    x = taps["stem"]
    for stage, blocks in enumerate(self.blocks, start=1):
      for block in range(1, blocks + 1):
        name = f"stage{stage}_block{block}"
        stride = 2 if stage > 1 and block == 1 else 1
        channels = self.width * 2 ** (stage - 1)
        x = taps[name] = self.section(ResNet._block, x, channels, stride, name, train)
    return taps | {"penultimate": global_average(x)}

  def _block(self, x: jax.Array, channels: int, stride: int, name: str, train: bool) -> jax.Array:
    block = self.block(
      channels=channels, stride=stride, dtype=self.dtype, axis_name=self.axis_name, name=name
    )
    return block(x, train)
