"""Tiny sets prepared by TFDS itself, and the real ones where they are at hand."""

import io
import os
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

REAL = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "../shared/data/tfds"))


def needs_real(name):
  return pytest.mark.skipif(
    not (REAL / name).is_dir(), reason=f"no prepared {name} in {REAL} (set TFDS_DATA_DIR)"
  )


def png(image: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(image.squeeze()).save(buffer, "PNG")
  return buffer.getvalue()


def builder(name: str, root, splits: dict, names=None, shape=None):
  """A TFDS builder of {split: (images, labels)}; `name` may be NAME/CONFIG.

  Examples are encoded images: so TFDS prepares them without TensorFlow.
  """
  dataset, _, config = name.partition("/")
  names = names or [f"class{k}" for k in range(1 + max(max(y) for _, y in splits.values()))]
  shape = shape or next(iter(splits.values()))[0].shape[1:]
  label = tfds.features.ClassLabel(names=names)
  features = {"image": tfds.features.Image(shape=shape), "label": label}

  def generate(images, labels):
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
      yield place, {"image": io.BytesIO(png(image)), "label": int(label)}

  body = {
    "name": dataset,
    "VERSION": tfds.core.Version("1.2.3"),
    "BUILDER_CONFIGS": [tfds.core.BuilderConfig(name=config)] if config else [],
    "url_infos": {},
    "_info": lambda self: tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    ),
    "_split_generators": lambda self, _: {s: generate(*split) for s, split in splits.items()},
    "_generate_examples": lambda self: None,
    "__module__": __name__,
  }
  with tfds.core.registered.skip_registration():
    kind = type("Tiny", (tfds.core.GeneratorBasedBuilder,), body)
  options = {"config": config} if config else {}
  return kind(data_dir=str(root), file_format="array_record", **options)


def random_split(size: int, shape, classes: int, seed=0):
  """(images, labels) with every class present."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (size, *shape), dtype=np.uint8), np.arange(size) % classes
