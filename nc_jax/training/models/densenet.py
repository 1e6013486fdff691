"""Densely connected networks: DenseNet-40, 121 and 201."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nc_jax.training.models.layers import Body, global_average, max_pool


class DenseLayer(Body, kw_only=True):
  """Appends `growth` channels to x: a 3x3 convolution of relu(norm(x)).

  With `bottleneck`, a 1x1 convolution first reduces x to 4 x `growth` channels.
  """

  growth: int
  bottleneck: bool

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    y = x
    if self.bottleneck:
      y = nn.relu(self.norm(train, name="norm_bottleneck")(y))
      y = self.conv(4 * self.growth, 1, name="conv_bottleneck")(y)
    y = nn.relu(self.norm(train, name="norm1")(y))
    y = self.conv(self.growth, 3, name="conv1")(y)
    return jnp.concatenate([x, y], axis=-1)


class DenseNet(Body, kw_only=True):
  """Dense blocks of layers that each see all before them; `width` is the growth rate k.

  Between blocks a transition (norm, ReLU, 1x1 convolution, 2x2 average pool) halves the side.
  With `bottleneck` ("DenseNet-BC", the ImageNet networks: k = 32) layers have a 1x1 convolution,
  transitions halve the channels, and the stem makes 2 k of them. Without (DenseNet-40: k = 12),
  nothing of this holds, and the stem makes 16. The stem is a 3x3 convolution ("small", for 32x32
  images) or a strided 7x7 convolution, norm, ReLU and a strided 3x3 max-pool ("imagenet").

  The dropout with which the paper trains on data that are not augmented is not applied.

  Tapped are `stem`, `dense1`, `transition1`, `dense2`, ... and `penultimate`, the last block's
  relu(norm(x)) averaged over space. Convolutions are initialised by He's rule with fan-out, as
  in the authors' code (torchvision's has fan-in).

  Huang et al. 2016, arXiv 1608.06993; github.com/liuzhuang13/DenseNet.
  """

  layers: tuple[int, ...]
  bottleneck: bool
  width: int
  stem: str = "small"

  def least_side(self) -> int:
    return {"small": 2 ** (len(self.layers) - 1), "imagenet": 64}[self.stem]

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
    channels = 2 * self.width if self.bottleneck else 16
    if self.stem == "small":
      x = self.conv(channels, 3, name="stem_conv")(images)
    else:
      x = self.conv(channels, 7, 2, name="stem_conv")(images)
      x = nn.relu(self.norm(train, name="stem_norm")(x))
      x = max_pool(x, 3, padding=1)
    taps = {"stem": x}
    for block, layers in enumerate(self.layers, start=1):
      if block > 1:
        x = taps[f"transition{block - 1}"] = self._transition(x, train, f"transition{block - 1}")
      for layer in range(1, layers + 1):
        x = self.section(DenseNet._layer, x, f"dense{block}_layer{layer}", train)
      taps[f"dense{block}"] = x
    x = nn.relu(self.norm(train, name="norm")(x))
    return taps | {"penultimate": global_average(x)}

  def _layer(self, x: jax.Array, name: str, train: bool) -> jax.Array:
    layer = DenseLayer(
      growth=self.width,
      bottleneck=self.bottleneck,
      dtype=self.dtype,
      axis_name=self.axis_name,
      name=name,
    )
    return layer(x, train)

  def _transition(self, x: jax.Array, train: bool, name: str) -> jax.Array:
    channels = x.shape[-1] // 2 if self.bottleneck else x.shape[-1]
    x = nn.relu(self.norm(train, name=f"{name}_norm")(x))
    x = self.conv(channels, 1, name=f"{name}_conv")(x)
    return nn.avg_pool(x, (2, 2), (2, 2))
