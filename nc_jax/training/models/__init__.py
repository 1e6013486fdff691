"""Networks by name: bodies that map images [B, H, W, C] to named features, and `Network`.

To add one: a `Body` with the options that it has as fields, and a line in MODELS.
"""

import inspect
from collections.abc import Callable
from functools import partial

import jax.numpy as jnp

from nc_jax.errors import UserError
from nc_jax.training.models.convnet import ConvNet
from nc_jax.training.models.deep_linear import DeepLinear
from nc_jax.training.models.densenet import DenseNet
from nc_jax.training.models.layers import Body
from nc_jax.training.models.mlp import MLP
from nc_jax.training.models.network import LOGITS, PENULTIMATE, TAP_POOLINGS, Network
from nc_jax.training.models.resnet import BasicBlock, Bottleneck, ResNet
from nc_jax.training.models.vgg import VGG
from nc_jax.training.models.vit import ViT

__all__ = [
  "LOGITS", "MODELS", "PENULTIMATE", "PRECISIONS", "STEMS", "TAP_POOLINGS", "Network", "build",
]  # fmt: skip

MODELS: dict[str, Callable[..., Body]] = {
  "mlp": MLP,
  "deep_linear": DeepLinear,
  "convnet": ConvNet,
  "resnet18": partial(ResNet, block=BasicBlock, blocks=(2, 2, 2, 2)),
  "resnet34": partial(ResNet, block=BasicBlock, blocks=(3, 4, 6, 3)),
  "resnet50": partial(ResNet, block=Bottleneck, blocks=(3, 4, 6, 3)),
  "vgg11": partial(VGG, convs=(1, 1, 2, 2, 2)),
  "vgg13": partial(VGG, convs=(2, 2, 2, 2, 2)),
  "vgg19": partial(VGG, convs=(2, 2, 4, 4, 4)),
  "densenet40": partial(DenseNet, layers=(12, 12, 12), bottleneck=False, width=12),
  "densenet121": partial(DenseNet, layers=(6, 12, 24, 16), bottleneck=True, width=32),
  "densenet201": partial(DenseNet, layers=(6, 12, 48, 32), bottleneck=True, width=32),
  "vit": ViT,
}

STEMS = ("small", "imagenet")
PRECISIONS = ("float32", "bfloat16")

_IMAGENET_SIDE = 64  # pixels from which on the stem is "imagenet" unless said otherwise

_COUNT = "a whole number >= 1", lambda x: type(x) is int and x >= 1
_OPTIONS = {
  "width": _COUNT,
  "depth": _COUNT,
  "batch_norm": ("True or False", lambda x: type(x) is bool),
  "stem": (" or ".join(STEMS), lambda x: x in STEMS),
}


def build(
  name: str,
  *,
  width: int | None = None,
  depth: int | None = None,
  batch_norm: bool | None = None,
  stem: str | None = None,
  remat: bool | None = None,
  dtype="float32",
  axis_name: str | None = None,
  image_shape: tuple[int, int, int],
) -> Body:
  """The body `name` for images of `image_shape` = (H, W, C).

  Args:
    width, depth, batch_norm, stem: options of the network; None is the published value. The stem is
      "small" for images below 64 pixels and "imagenet" from there on.
    remat: compute the inside of blocks once more for the gradient, instead of keeping it; None: no.
    dtype: what convolutions and matrix products compute in, "float32" or "bfloat16". Accelerators
      round the factors of the former too, unless jax_default_matmul_precision says otherwise.
    axis_name: the device axis over which batch statistics are averaged.

  Raises UserError for an unknown name, an option that this network does not have, a bad value, or
  images that are too small for it.
  """
  if name not in MODELS:
    raise UserError(f"config.model.name = {name!r}, but must be one of {', '.join(MODELS)}.")
  given = {"width": width, "depth": depth, "batch_norm": batch_norm, "stem": stem}
  options = {option: value for option, value in given.items() if value is not None}
  parameters = inspect.signature(MODELS[name]).parameters
  has = [option for option in _OPTIONS if option in parameters]
  for option, value in options.items():
    if option not in has:
      raise UserError(
        f"config.model.{option} = {value!r}, but must be None: {name} has only {', '.join(has)}."
      )
    allowed, accepts = _OPTIONS[option]
    if not accepts(value):
      raise UserError(f"config.model.{option} = {value!r}, but must be {allowed} or None.")
  if dtype not in PRECISIONS:
    raise UserError(f"config.model.precision = {dtype!r}, but must be {' or '.join(PRECISIONS)}.")

  side = min(image_shape[:2])
  if "stem" in has:
    options.setdefault("stem", "small" if side < _IMAGENET_SIDE else "imagenet")
  body = MODELS[name](
    dtype=jnp.dtype(dtype), axis_name=axis_name, remat=bool(remat), **options
  )
  least = body.least_side()
  if side < least:
    what = "stem" if "stem" in has else "depth"
    height, breadth = image_shape[:2]
    raise UserError(
      f"config.model.{what} = {getattr(body, what)!r} makes {name} need images of at least "
      f"{least}x{least}; these are {height}x{breadth}."
    )
  return body
