"""Every network by name: as many parameters as published, taps as named, precision as asked."""

import functools

import jax
import jax.numpy as jnp
import pytest

from nc_jax.training import models

TORCHVISION = "docs.pytorch.org/vision/stable/models.html, num_params"
KUANGLIU = "github.com/kuangliu/pytorch-cifar, 10 classes"
PUBLISHED = [
  ("resnet18", 224, 1000, 11_689_512, TORCHVISION),
  ("resnet34", 224, 1000, 21_797_672, TORCHVISION),
  ("resnet50", 224, 1000, 25_557_032, TORCHVISION),
  ("vgg11", 224, 1000, 132_868_840, TORCHVISION),
  ("vgg13", 224, 1000, 133_053_736, TORCHVISION),
  ("vgg19", 224, 1000, 143_678_248, TORCHVISION),
  ("densenet121", 224, 1000, 7_978_856, TORCHVISION),
  ("densenet201", 224, 1000, 20_013_928, TORCHVISION),
  # DeiT-Ti (Touvron et al. 2020, 5.7M) has 5,717,416; a class token and its position are 2 x 192.
  ("vit", 224, 1000, 5_717_416 - 2 * 192, "arXiv 2012.12877, Table 1"),
  ("resnet18", 32, 10, 11_173_962, KUANGLIU),
  ("resnet34", 32, 10, 21_282_122, KUANGLIU),
  ("resnet50", 32, 10, 23_520_842, KUANGLIU),
  ("vgg11", 32, 10, 9_231_114, KUANGLIU),
  ("vgg13", 32, 10, 9_416_010, KUANGLIU),
  ("vgg19", 32, 10, 20_040_522, KUANGLIU),
  ("densenet121", 32, 10, 6_956_298, KUANGLIU),
  # Huang et al. 2016, Table 2: 1.0M. To the digit: github.com/Hyperparticle/one-pixel-attack-keras.
  ("densenet40", 32, 10, 1_019_722, "arXiv 1608.06993"),
]


@functools.cache
def shapes(name, side, dtype="float32"):
  """Shapes of variables and of taps, without computing anything."""
  body = models.build(name, image_shape=(side, side, 3), dtype=dtype)
  images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
  variables = jax.eval_shape(lambda x: body.init(jax.random.key(0), x, train=False), images)
  names = []

  def apply(variables, images):
    taps = body.apply(variables, images, train=False)
    names.extend(taps)  # jax sorts the dict that it returns
    return taps

  taps = jax.eval_shape(apply, variables, images)
  return variables, {name: taps[name] for name in names}


@pytest.mark.parametrize("name, side, classes, expected, source", PUBLISHED)
def test_parameters_are_as_many_as_published(name, side, classes, expected, source):
  variables, taps = shapes(name, side)
  body = sum(x.size for x in jax.tree.leaves(variables["params"]))
  assert body + (taps["penultimate"].shape[-1] + 1) * classes == expected, source



def numbered(part, counts):
  return [f"stage{i}_{part}{j + 1}" for i, n in enumerate(counts, start=1) for j in range(n)]


DENSENET = ["stem", "dense1", "transition1", "dense2", "transition2", "dense3"]
NAMES = {
  "mlp": ["layer1", "layer2", "layer3"],
  "deep_linear": ["layer1", "layer2", "layer3"],
  "convnet": ["block1", "block2", "block3", "block4"],
  "resnet18": ["stem", *numbered("block", (2, 2, 2, 2))],
  "resnet34": ["stem", *numbered("block", (3, 4, 6, 3))],
  "resnet50": ["stem", *numbered("block", (3, 4, 6, 3))],
  "vgg11": numbered("conv", (1, 1, 2, 2, 2)),
  "vgg13": numbered("conv", (2, 2, 2, 2, 2)),
  "vgg19": numbered("conv", (2, 2, 4, 4, 4)),
  "densenet40": DENSENET,
  "densenet121": [*DENSENET, "transition3", "dense4"],
  "densenet201": [*DENSENET, "transition3", "dense4"],
  "vit": [f"block{i}" for i in range(1, 13)],
}


@pytest.mark.parametrize("name", models.MODELS)
def test_taps_are_named_in_network_order(name):
  _, taps = shapes(name, 32)
  assert list(taps) == [*NAMES[name], "penultimate"]


# The last map, and the penultimate width, for the smallest and for the published image size.
LAST = [
  ("mlp", 1, (2, 128), 128),
  ("deep_linear", 1, (2, 128), 128),
  ("convnet", 16, (2, 2, 2, 64), 64),
  ("convnet", 32, (2, 4, 4, 64), 64),
  ("resnet18", 8, (2, 1, 1, 512), 512),
  ("resnet18", 32, (2, 4, 4, 512), 512),
  ("resnet34", 64, (2, 2, 2, 512), 512),
  ("resnet34", 224, (2, 7, 7, 512), 512),
  ("resnet50", 8, (2, 1, 1, 2048), 2048),
  ("resnet50", 224, (2, 7, 7, 2048), 2048),
  ("vgg11", 32, (2, 2, 2, 512), 512),
  ("vgg13", 63, (2, 3, 3, 512), 512),
  ("vgg19", 64, (2, 4096), 4096),
  ("vgg19", 224, (2, 4096), 4096),
  ("densenet40", 4, (2, 1, 1, 448), 448),
  ("densenet40", 32, (2, 8, 8, 448), 448),
  ("densenet121", 8, (2, 1, 1, 1024), 1024),
  ("densenet121", 224, (2, 7, 7, 1024), 1024),
  ("densenet201", 64, (2, 2, 2, 1920), 1920),
  ("vit", 4, (2, 1, 192), 192),
  ("vit", 10, (2, 9, 192), 192),
  ("vit", 224, (2, 196, 192), 192),
]


@pytest.mark.parametrize("name, side, last, width", LAST)
def test_maps_shrink_to_their_published_size(name, side, last, width):
  _, taps = shapes(name, side)
  *_, before, penultimate = taps.values()
  assert before.shape == last
  assert penultimate.shape == (2, width)


def test_stems_halve_as_they_say():
  for name, small, imagenet in (("resnet18", 32, 16), ("densenet121", 32, 16)):
    assert shapes(name, 32)[1]["stem"].shape[1:] == (small, small, 64)
    assert shapes(name, 64)[1]["stem"].shape[1:] == (imagenet, imagenet, 64)


@pytest.mark.parametrize("name", ["mlp", "resnet18", "vgg11", "densenet40", "vit"])
def test_bfloat16_is_for_computing_not_for_keeping(name):
  variables, taps = shapes(name, 32, "bfloat16")
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  *layers, penultimate = taps.values()
  assert {x.dtype for x in layers} == {jnp.dtype("bfloat16")}
  assert penultimate.dtype == ("bfloat16" if name == "mlp" else "float32")  # an average
