"""Sets that TensorFlow Datasets prepared in array_record form, read without TensorFlow."""

import json
import os
import pathlib
import re

import numpy as np

from nc_jax.errors import UserError
from nc_jax.training.data.reading import Reading, cached, fit, with_channels
from nc_jax.training.data.sets import Dataset, Split
from nc_jax.training.data.streaming import StreamedImages

# The second split of each; `test` of ImageNet has no labels.
TEST_SPLITS = {
  "mnist": "test",
  "fashion_mnist": "test",
  "kmnist": "test",
  "cifar10": "test",
  "cifar100": "test",
  "svhn_cropped": "test",
  "stl10": "test",
  "imagenet2012": "validation",
  "imagenet_resized/8x8": "validation",
  "imagenet_resized/16x16": "validation",
  "imagenet_resized/32x32": "validation",
  "imagenet_resized/64x64": "validation",
}

_CHUNK = 1000  # examples decoded between two words of progress


def data_dir(dir: str | None) -> pathlib.Path:
  """TFDS's folder: as given, or $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
  return pathlib.Path(
    dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  ).expanduser()


def find(name: str, root: pathlib.Path) -> pathlib.Path | None:
  """The newest version that is prepared in array_record form; None if there is none."""
  versions = [
    (tuple(map(int, path.parent.name.split("."))), path.parent)
    for path in (root / name).glob("*/dataset_info.json")
    if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    and json.loads(path.read_text()).get("fileFormat") == "array_record"
  ]
  return max(versions)[1] if versions else None


def source(name: str):
  """The source that reads the set `name`."""

  def read(*, reading: Reading, dir: str | None = None, image_size: int | None = None) -> Dataset:
    root = data_dir(dir)
    command = f"`python -m nc_jax.prepare {name} --data_dir={root}`"
    folder = find(name, root)
    if folder is None:
      raise UserError(
        f"config.data.name = {name!r}: no prepared data in {root / name}. {command} prepares it; "
        "or set config.data.dir (or TFDS_DATA_DIR) to a TFDS folder with array_record files of it."
      )
    import tensorflow_datasets as tfds
    from absl import logging

    logging.set_verbosity(logging.ERROR)  # it does not matter which library decodes the images
    try:
      builder = tfds.builder_from_directory(str(folder))
      parts = [_Part(builder, split) for split in ("train", TEST_SPLITS[name])]
      shape = builder.info.features["image"].shape
      names = tuple(builder.info.features["label"].names)
      if image_size is not None:
        shape = (image_size, image_size, shape[-1])
      elif None in shape:
        raise UserError(
          f"config.data.image_size = None, but images of {name} differ in size: give one, as 64."
        )
      stream = not reading.holds(sum(map(len, parts)), shape)
      splits = [part.read(shape, image_size, stream, reading) for part in parts]
    except UserError:
      raise
    except Exception as error:  # TFDS raises whatever its readers raised
      reason = (str(error).strip() or type(error).__name__).splitlines()[0]
      raise UserError(
        f"config.data.name = {name!r}: {folder} could not be read as a TFDS data set in "
        f"array_record form ({reason}); {command} prepares one where no such folder is."
      ) from error
    return Dataset(*splits, names)

  read.__doc__ = f"""{name} as TFDS prepared it; `test` is its split {TEST_SPLITS[name]}.

  With `image_size` each image is resized and cropped to a square of that size.
  """
  return read


class _Part:
  """One split of a prepared set."""

  def __init__(self, builder, split: str):
    self._examples = builder.as_data_source(split)
    self._builder, self._split = builder, split

  def __len__(self) -> int:
    return len(self._examples)

  def read(self, shape, image_size, stream: bool, reading: Reading) -> Split:
    def image_of(example):
      image = with_channels(example["image"], shape[-1])
      return image if image_size is None else fit(image, image_size)

    def labels_alone():
      import tensorflow_datasets as tfds

      decoders = {"image": tfds.decode.SkipDecoding()}
      encoded = self._builder.as_data_source(self._split, decoders=decoders)
      return {"labels": np.array([e["label"] for e in _each(encoded, reading)], np.int32)}

    def decode_all():
      images, labels = np.empty((len(self), *shape), np.uint8), np.empty(len(self), np.int32)
      for place, example in enumerate(_each(self._examples, reading)):
        images[place], labels[place] = image_of(example), example["label"]
      return {"images": images, "labels": labels}

    info = self._builder.info
    files = [pathlib.Path(file) for file in info.splits[self._split].filepaths]
    keep = lambda what, make: cached(
      reading.cache_dir, f"{info.full_name} {self._split} {what}", files, make
    )
    if not stream:
      arrays = keep("x".join(map(str, shape)), decode_all)
      return Split(arrays["images"], arrays["labels"])
    read = lambda id_: image_of(self._examples[id_])
    images = StreamedImages(read, np.arange(len(self)), shape, reading.read_threads)
    return Split(images, keep("labels", labels_alone)["labels"])


def _each(examples, reading: Reading):
  """All examples in order. TFDS is twice as fast when asked for many at once."""
  for begin in range(0, len(examples), _CHUNK):
    end = min(begin + _CHUNK, len(examples))
    yield from examples.__getitems__(range(begin, end))
    reading.progress(end, len(examples))
