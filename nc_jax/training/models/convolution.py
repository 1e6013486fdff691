"""Convolution, with gradients that stay fast inside a compiled loop on CPU."""

from functools import partial

import jax
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolution(x, kernel, strides, padding, **options) -> jax.Array:
  """`lax.conv_general_dilated`, as a `nn.Conv` calls it; on CPU with gradients of our own.

  XLA's CPU backend has fast code for the layout NHWC, HWIO -> NHWC alone. It turns other
  convolutions into that layout, but not inside a loop (github.com/jax-ml/jax/issues/12868), and
  the gradients that jax derives have other layouts: a training step of ResNet-18 (width 16, batch
  128) takes 0.33 s of one core on its own and 17 s in a `lax.scan` over steps. Ours are the same
  sums with the transpositions written out, and take 0.33 s in both. They cannot be differentiated
  in forward mode.
  """
  if jax.default_backend() != "cpu":
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)
  plain = {*options["lhs_dilation"], *options["rhs_dilation"], options["feature_group_count"]}
  assert plain == {1}, "the gradients below are those of plain convolutions: no dilation, no groups"
  return _convolution(x, kernel, tuple(strides), tuple(padding))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(x, kernel, strides, padding):
  return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_LAYOUT)


def _forward(x, kernel, strides, padding):
  return _convolution(x, kernel, strides, padding), (x, kernel)


def _backward(strides, padding, saved, g):
  """Gradients by x and kernel; g is that by the output.

      dx = g, its places `stride` apart  *  kernel turned by 180 degrees, channels swapped
      dkernel = x  *  g, its places `stride` apart;  examples in the role of channels
  """
  x, kernel = saved
  before, after, after_kernel = [], [], []
  for size, window, stride, out, (low, _) in zip(
    x.shape[1:3], kernel.shape[:2], strides, g.shape[1:3], padding, strict=True
  ):
    reach = (out - 1) * stride + 1  # how far the spread-out g goes
    before.append(window - 1 - low)
    after.append(size + low - reach)
    after_kernel.append(window - 1 + reach - size - low)
  dx = lax.conv_general_dilated(
    g,
    kernel[::-1, ::-1].swapaxes(2, 3),
    (1, 1),
    list(zip(before, after, strict=True)),
    lhs_dilation=strides,
    dimension_numbers=_LAYOUT,
  )
  dkernel = lax.conv_general_dilated(
    x.transpose(3, 1, 2, 0),
    g.transpose(1, 2, 0, 3),
    (1, 1),
    [(low, high) for (low, _), high in zip(padding, after_kernel, strict=True)],
    rhs_dilation=strides,
    dimension_numbers=_LAYOUT,
  )
  return dx, dkernel.transpose(1, 2, 0, 3)


_convolution.defvjp(_forward, _backward)
