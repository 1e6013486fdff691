"""Data sources: a name in, two splits of uint8 images and labels out.

A source returns its images as bytes and says how a byte becomes a number (`scale`, `shift`), so
that a small set can live on the devices and be normalised there.
"""

import os
import pathlib
from typing import NamedTuple

import numpy as np

from nc_jax.errors import UserError


class Split(NamedTuple):
  images: np.ndarray  # uint8 [N, H, W, C]
  labels: np.ndarray  # int32 [N], in [0, K)

  def __len__(self) -> int:
    return len(self.labels)


class Dataset(NamedTuple):
  """Two splits and what a model needs to know of them.

  The network sees `image * scale + shift`, per channel.
  """

  train: Split
  test: Split
  num_classes: int
  scale: np.ndarray  # float32 [C]
  shift: np.ndarray  # float32 [C]

  @property
  def nbytes(self) -> int:
    return self.train.images.nbytes + self.test.images.nbytes


# --- The embedded default -----------------------------------------------------------------------

_CANVAS = 10  # pixels; a digit is 8 x 8
_NOISE = 0.1  # standard deviation, where ink is 1
_BASE_TRAIN = 1200  # of scikit-learn's 1,797 digits; the other 597 are only ever test digits
_LOW, _HIGH = -0.5, 1.5  # the range that a byte covers: five standard deviations of the noise


def digits(directory: str | None, train_size: int | None, test_size: int | None, seed: int):
  """Real handwritten digits of scikit-learn, jittered on a canvas so that test stays hard.

  The 1,797 8 x 8 digits are split by image first (1,200 for train, 597 for test). Each example
  is one of its split's digits, drawn with replacement, pasted at a random place of a 10 x 10
  canvas, plus N(0, 0.1²) noise; the network sees x -> 2x - 0.4. Defaults: 1,500 and 1,500.

  Why not the plain digits: they are so easy that test features nearly collapse too.
  """
  if directory is not None:
    raise UserError(f"data.dir = {directory!r}, but the digits come with scikit-learn: use None.")
  from sklearn import datasets  # half a second that other sources need not pay

  base = datasets.load_digits()
  rng = np.random.default_rng([seed, 0x0D161750])  # apart from the stream that orders epochs
  order = rng.permutation(len(base.target))
  pools = order[:_BASE_TRAIN], order[_BASE_TRAIN:]
  train, test = (
    _jitter(base.images[pool] / 16.0, base.target[pool], 1500 if size is None else size, rng)
    for pool, size in zip(pools, (train_size, test_size), strict=True)
  )
  # byte -> [_LOW, _HIGH] -> 2x - 0.4
  scale = np.float32([2 * (_HIGH - _LOW) / 255])
  shift = np.float32([2 * _LOW - 0.4])
  return Dataset(train, test, 10, scale, shift)


def _jitter(images, labels, size, rng) -> Split:
  pick = rng.integers(len(labels), size=size)
  room = _CANVAS - images.shape[1] + 1
  rows, columns = rng.integers(room, size=(2, size))
  side = np.arange(images.shape[1])
  canvas = np.zeros((size, _CANVAS, _CANVAS))
  canvas[
    np.arange(size)[:, None, None],
    rows[:, None, None] + side[:, None],
    columns[:, None, None] + side,
  ] = images[pick]
  canvas += _NOISE * rng.standard_normal(canvas.shape)
  pixels = np.clip(np.rint((canvas - _LOW) / (_HIGH - _LOW) * 255), 0, 255)
  return Split(pixels.astype(np.uint8)[..., None], labels[pick].astype(np.int32))


# --- TensorFlow Datasets, without TensorFlow ----------------------------------------------------


def _from_tfds(name: str):
  def source(directory: str | None, train_size: int | None, test_size: int | None, seed: int):
    root = pathlib.Path(
      directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    ).expanduser()
    if not (root / name).is_dir():
      raise UserError(
        f"data.name = {name!r}: no prepared data in {root / name}. Set data.dir (or the variable "
        f"TFDS_DATA_DIR) to a TFDS folder that holds {name} in array_record format."
      )
    import tensorflow_datasets as tfds
    from absl import logging

    tfds.disable_progress_bar()  # the only bar on the screen is ours
    logging.set_verbosity(logging.ERROR)  # nor does it matter which library decodes the images
    splits = {}
    for split, size in (("train", train_size), ("test", test_size)):
      try:
        examples = tfds.data_source(name, split=split, data_dir=str(root), download=False)
        examples = examples.__getitems__(range(len(examples)))
      except Exception as error:
        raise UserError(
          f"data.name = {name!r}: {root / name} could not be read as a prepared TFDS data set in "
          f"array_record format ({str(error).strip().splitlines()[0]})."
        ) from error
      images = np.stack([example["image"] for example in examples])
      labels = np.array([example["label"] for example in examples], np.int32)
      chosen = _balanced(labels, size, np.random.default_rng([seed, 0x7FD5]), f"data.{split}_size")
      splits[split] = Split(images[chosen], labels[chosen])

    train = splits["train"]
    # Mean and deviation per channel, by sums over integers: exact, and no float copy of the set.
    channels = train.images.reshape(-1, train.images.shape[-1])
    counts = np.stack([np.bincount(channel, minlength=256) for channel in channels.T])  # [C, 256]
    levels = np.arange(256)
    mean = counts @ levels / len(channels)
    deviation = np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(1) / len(channels))
    num_classes = int(max(train.labels.max(), splits["test"].labels.max())) + 1
    return Dataset(
      train,
      splits["test"],
      num_classes,
      (1 / deviation).astype(np.float32),
      (-mean / deviation).astype(np.float32),
    )

  source.__doc__ = f"{name} as TFDS prepared it (array_record); per-channel mean 0, deviation 1."
  return source


def _balanced(labels, size, rng, argument) -> np.ndarray:
  """Ids of a class-balanced subset of `size` examples, in their order; all where size is None."""
  if size is None:
    return np.arange(len(labels))
  classes, available = np.unique(labels, return_counts=True)
  share, rest = divmod(size, len(classes))
  if share + (rest > 0) > available.min():
    raise UserError(
      f"{argument} = {size}: a balanced subset has at most {available.min() * len(classes)} "
      f"examples ({available.min()} in the smallest of {len(classes)} classes)."
    )
  order = rng.permutation(len(labels))
  quota = np.full(len(classes), share)
  quota[:rest] += 1
  chosen = [order[labels[order] == c][:n] for c, n in zip(classes, quota, strict=True)]
  return np.sort(np.concatenate(chosen))


SOURCES = {"digits": digits, "mnist": _from_tfds("mnist"), "cifar10": _from_tfds("cifar10")}


# --- The order of examples ----------------------------------------------------------------------


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
  """The order in which an epoch visits the train set: a function of (seed, epoch) alone, [N]."""
  return np.random.default_rng([seed, epoch]).permutation(size)
