"""The builder refuses, in one line, what a network does not have or cannot take."""

import pytest

from nc_jax.errors import UserError
from nc_jax.training import models

REFUSALS = [
  (dict(name="resnet19"), "config.model.name = 'resnet19', but must be one of mlp, deep_linear,"),
  (
    dict(name="resnet18", depth=4),
    "config.model.depth = 4, but must be None: resnet18 has only width, stem.",
  ),
  (dict(name="vgg11", batch_norm=False), "None: vgg11 has only width, stem."),
  (dict(name="deep_linear", batch_norm=True), "None: deep_linear has only width, depth."),
  (dict(name="mlp", stem="small"), "None: mlp has only width, depth, batch_norm."),
  (dict(name="vit", batch_norm=False), "None: vit has only width, depth, stem."),
  (dict(name="mlp", width=0), "config.model.width = 0, but must be a whole number >= 1 or None."),
  (dict(name="mlp", width=True), "config.model.width = True, but must be a whole number"),
  (dict(name="vit", depth=1.5), "config.model.depth = 1.5, but must be a whole number"),
  (dict(name="mlp", batch_norm=1), "config.model.batch_norm = 1, but must be True or False or"),
  (dict(name="vgg11", stem="big"), "config.model.stem = 'big', but must be small or imagenet or"),
  (
    dict(name="mlp", dtype="float16"),
    "config.model.precision = 'float16', but must be float32 or bfloat16.",
  ),
  (
    dict(name="resnet18", stem="imagenet", image_shape=(28, 28, 1)),
    "config.model.stem = 'imagenet' makes resnet18 need images of at least 64x64; these are 28x28.",
  ),
  (dict(name="vit", stem="imagenet", image_shape=(64, 63, 3)), "these are 64x63."),
  (
    dict(name="vgg13", image_shape=(28, 28, 1)),
    "config.model.stem = 'small' makes vgg13 need images of at least 32x32; these are 28x28.",
  ),
  (dict(name="resnet50", image_shape=(7, 9, 1)), "at least 8x8; these are 7x9."),
  (dict(name="densenet40", image_shape=(3, 3, 1)), "at least 4x4"),
  (dict(name="densenet201", image_shape=(7, 7, 1)), "at least 8x8"),
  (dict(name="vit", image_shape=(3, 3, 1)), "at least 4x4"),
  (
    dict(name="convnet", image_shape=(10, 10, 1)),
    "config.model.depth = 4 makes convnet need images of at least 16x16; these are 10x10.",
  ),
]


@pytest.mark.parametrize("options, message", REFUSALS)
def test_refusals(options, message):
  with pytest.raises(UserError) as refusal:
    models.build(**{"image_shape": (32, 32, 3), **options})
  assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_what_is_left_none_is_the_published_value():
  build = lambda name, side=32, **options: models.build(
    name, image_shape=(side, side, 3), **options
  )
  assert build("resnet18") == build("resnet18", width=64, stem="small")
  assert build("densenet40") == build("densenet40", width=12)
  assert build("densenet121") == build("densenet121", width=32)
  assert build("mlp") == build("mlp", width=128, depth=4, batch_norm=True)
  assert build("convnet") == build("convnet", width=64, depth=4, batch_norm=True)
  assert build("vit") == build("vit", width=192, depth=12)


def test_the_stem_follows_the_image():
  stem = lambda *shape: models.build("vgg11", image_shape=(*shape, 3)).stem
  assert [stem(32, 32), stem(63, 200), stem(64, 64), stem(224, 224)] == [
    "small", "small", "imagenet", "imagenet"
  ]  # fmt: skip
