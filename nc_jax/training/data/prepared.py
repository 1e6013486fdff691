"""Sets that TensorFlow Datasets prepared in array_record form, read without TensorFlow."""

import json
import os
import pathlib
import re

import numpy as np

from nc_jax.errors import UserError
from nc_jax.training.data.reading import (
  Reading,
  cached,
  check_image,
  expanded,
  fit,
  named,
  with_channels,
)
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
  return expanded(dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def find(name: str, root: pathlib.Path) -> pathlib.Path | None:
  """The newest version that is prepared in array_record form; None if there is none.

  Raises UserError for a folder that may not be read, and for a version that does not say its form.
  """
  try:
    folders = list((root / name).iterdir())
  except (FileNotFoundError, NotADirectoryError):
    return None
  except OSError as error:
    raise UserError(f"{root / name} cannot be read: {error.strerror}.") from error
  versions = [
    (tuple(map(int, folder.name.split("."))), folder)
    for folder in folders
    if re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", folder.name)
    and _form(folder / "dataset_info.json") == "array_record"
  ]
  return max(versions)[1] if versions else None


def _form(path: pathlib.Path) -> str | None:
  """The file format that a dataset_info.json tells of; None without such a file."""
  try:
    return json.loads(path.read_text(encoding="utf-8")).get("fileFormat")
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (OSError, ValueError, AttributeError, RecursionError) as error:
    raise UserError(f"{path} cannot be read: {error}.") from error


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
      check_features(builder, name)
      parts = [_Part(builder, split) for split in ("train", TEST_SPLITS[name])]
      shape = builder.info.features["image"].shape
      names = class_names(builder, folder, sum(map(len, parts)))
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


def check_features(builder, name: str):
  """Raises ValueError where the folder holds another set, or one of no images and classes."""
  import tensorflow_datasets as tfds

  if builder.info.name != name.partition("/")[0]:
    raise ValueError(f"it holds {builder.info.name}")
  image, label = (builder.info.features[key] for key in ("image", "label"))
  if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
    raise ValueError("features.json tells of no image with a class")
  # TFDS repeats a grey image as often as is said here, a million times too.
  if len(image.shape) != 3 or image.shape[-1] not in (1, 3) or image.np_dtype != np.uint8:
    raise ValueError(f"features.json tells of images {image.np_dtype} {list(image.shape)}")


def class_names(builder, folder: pathlib.Path, examples: int) -> tuple[str, ...]:
  """The names of the classes, of which there are no more than examples."""
  label = builder.info.features["label"]
  if not 0 < label.num_classes <= examples:
    raise ValueError(f"features.json tells of {label.num_classes} classes; {examples} examples")
  file, names = folder / "label.labels.txt", tuple(label.names)
  if file.exists():
    with named(file.name):
      file.read_text(encoding="utf-8")  # TFDS numbers the classes if it cannot read their names
      if not len(set(names)) == len(names) == label.num_classes:
        raise ValueError(f"{len(set(names))} names where there are {label.num_classes} classes")
  return names


class _Part:
  """One split of a prepared set. Raises Unreadable where its files hold other than it says."""

  def __init__(self, builder, split: str):
    from array_record.python.array_record_module import ArrayRecordReader

    info = builder.info.splits[split]
    self._files = [pathlib.Path(file) for file in info.filepaths]
    for file, promised in zip(self._files, info.shard_lengths, strict=True):
      with named(file.name):
        file.open("rb").close()  # the reader finds no example in what is absent or not ours to read
        held = ArrayRecordReader(str(file)).num_records()
        if held != promised:
          raise ValueError(f"{held} examples can be read where dataset_info.json says {promised}")
    self._examples = builder.as_data_source(split)
    self._builder, self._split = builder, split

  def __len__(self) -> int:
    return len(self._examples)

  def read(self, shape, image_size, stream: bool, reading: Reading) -> Split:
    classes = self._builder.info.features["label"].num_classes

    def image_of(example):
      image = with_channels(example["image"], shape[-1])
      image = image if image_size is None else fit(image, image_size)
      check_image(image, shape)
      return image

    def label_of(example):
      if not 0 <= example["label"] < classes:
        raise ValueError(f"its label is {example['label']} where there are {classes} classes")
      return example["label"]

    def labels_alone():
      import tensorflow_datasets as tfds

      decoders = {"image": tfds.decode.SkipDecoding()}
      encoded = self._builder.as_data_source(self._split, decoders=decoders)
      return {"labels": np.array(list(self._each(encoded, label_of, reading)), np.int32)}

    first = lambda: self._one(self._examples, 0, image_of)  # before anything is made in its shape

    def decode_all():
      first()
      images, labels = np.empty((len(self), *shape), np.uint8), np.empty(len(self), np.int32)
      both = lambda example: (image_of(example), label_of(example))
      for place, pair in enumerate(self._each(self._examples, both, reading)):
        images[place], labels[place] = pair
      return {"images": images, "labels": labels}

    name = f"{self._builder.info.full_name} {self._split}"
    keep = lambda what, names, make: cached(
      reading.cache_dir, f"{name} {what}", self._files, names, make
    )
    if not stream:
      arrays = keep("x".join(map(str, shape)), ("images", "labels"), decode_all)
      return Split(arrays["images"], arrays["labels"])
    labels = keep("labels", ["labels"], labels_alone)["labels"]
    first()
    read = lambda id_: self._one(self._examples, id_, image_of)
    return Split(StreamedImages(read, np.arange(len(self)), shape, reading.read_threads), labels)

  def _each(self, examples, of, reading: Reading):
    """of(example) of all examples. TFDS is twice as fast when asked for many at once."""
    for begin in range(0, len(examples), _CHUNK):
      places = range(begin, min(begin + _CHUNK, len(examples)))
      try:
        found = [of(example) for example in examples.__getitems__(places)]
      except Exception:  # one after the other they tell which it was
        found = [self._one(examples, place, of) for place in places]
      yield from found
      reading.progress(places.stop, len(examples))

  def _one(self, examples, place: int, of):
    with named(f"{self._split} example {place}"):
      return of(examples[place])
