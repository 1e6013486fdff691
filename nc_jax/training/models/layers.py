"""What the networks share: convolution, norm and pooling, as the references do them."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from nc_jax.training.models.convolution import convolution

# Normal with variance 2 / (output channels x kernel area): PyTorch's kaiming_normal_, fan_out.
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Body(nn.Module, kw_only=True):
  """Base of the networks: `body(images [B, H, W, C], train) -> {layer: features}`.

  Layers come input side first and are maps [B, H, W, C], tokens [B, T, C] or vectors [B, D]. The
  last is `penultimate` [B, D], what the head reads.

  Attributes:
    dtype: what convolutions and matrix products compute in. Parameters, batch statistics and the
      arithmetic of norms and of average pooling are float32 whatever it is.
    axis_name: the device axis over which batch statistics are averaged in training.
    remat: of each `section` only the input is kept for the gradient, and what is inside computed
      once more: less memory, more time, the same numbers, parameters and batch statistics.
  """

  dtype: jnp.dtype = jnp.float32
  axis_name: str | None = None
  remat: bool = False

  def least_side(self) -> int:
    """Height and width of the smallest images that the network takes."""
    return 1

  def section(self, apply: Callable, x: jax.Array, *options) -> jax.Array:
    """`apply(self, x, *options)`, a part of the network between two taps. See `remat`.

    `apply` is a method as its class holds it, for it may be given another module than `self`.
    """
    inside = lambda module, x: apply(module, x, *options)
    return nn.remat(inside)(self, x) if self.remat else inside(self, x)

  def conv(self, channels: int, size: int, stride: int = 1, *, bias: bool = False, name: str):
    """Convolution padded by (size - 1) / 2 on each side, He initialisation by fan-out.

    Not "SAME", which pads strided convolutions on one side only.
    """
    return nn.Conv(
      channels,
      (size, size),
      stride,
      padding=size // 2,
      use_bias=bias,
      kernel_init=he_fan_out,
      conv_general_dilated=convolution,
      dtype=self.dtype,
      name=name,
    )

  def norm(self, train: bool, *, name: str):
    """Batch norm: running statistics keep 0.9 of the old value; epsilon 1e-5.

    Ioffe & Szegedy 2015, arXiv 1502.03167.
    """
    return nn.BatchNorm(
      use_running_average=not train,
      momentum=0.9,
      epsilon=1e-5,
      dtype=self.dtype,
      axis_name=self.axis_name if train else None,
      use_fast_variance=False,  # E[x²] - E[x]² cancels where features collapse
      name=name,
    )


def max_pool(x: jax.Array, size: int = 2, padding: int = 0) -> jax.Array:
  """Maximum over every second window of size x size: [B, H, W, C] to half the height and width."""
  return nn.max_pool(x, (size, size), (2, 2), ((padding, padding),) * 2)


def global_average(x: jax.Array) -> jax.Array:
  """Mean over all places, in float32; [B, H, W, C] or [B, T, C] -> [B, C]."""
  return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32)
