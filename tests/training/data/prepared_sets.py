"""Tiny sets prepared by TFDS itself, and the real ones where they are at hand."""

import io
import json
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


def record(image: bytes, label: int) -> bytes:
  """An example as TFDS stores it."""
  from tensorflow_datasets.proto import tf_example_pb2

  example = tf_example_pb2.Example()
  example.features.feature["image"].bytes_list.value.append(image)
  example.features.feature["label"].int64_list.value.append(label)
  return example.SerializeToString()


def rewrite(folder: pathlib.Path, split: str, shards: list[list[bytes]], promised=None):
  """Makes a split of a prepared set anew, of these records; returns its files.

  `promised` is how many records of each shard dataset_info.json tells of: None, the true numbers.
  """
  from array_record.python.array_record_module import ArrayRecordWriter

  for old in folder.glob(f"*-{split}.array_record*"):
    old.unlink()
  path = folder / "dataset_info.json"
  info = json.loads(path.read_text())
  name = f"{info['name']}-{split}.array_record"
  files = [folder / f"{name}-{i:05}-of-{len(shards):05}" for i in range(len(shards))]
  for file, records in zip(files, shards, strict=True):
    writer = ArrayRecordWriter(str(file), "group_size:1")
    for each in records:
      writer.write(each)
    writer.close()
  (entry,) = (entry for entry in info["splits"] if entry["name"] == split)
  entry["shardLengths"] = [str(n) for n in promised or map(len, shards)]
  path.write_text(json.dumps(info))
  return files
