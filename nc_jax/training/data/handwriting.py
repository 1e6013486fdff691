"""The embedded default: real handwritten digits of scikit-learn, jittered; one or two a canvas."""

import numpy as np

from nc_jax.training.data.sets import Dataset, Split

_CANVAS = 10  # pixels; a digit is 8 x 8
_NOISE = 0.1  # standard deviation, where ink is 1
_BASE_TRAIN = 1200  # of scikit-learn's 1,797 digits; the other 597 are only ever test digits
_LOW, _HIGH = -0.5, 1.5  # the range that a byte covers: five standard deviations of the noise

# byte -> [_LOW, _HIGH] -> 2x - 0.4
_SCALE = np.float32([2 * (_HIGH - _LOW) / 255])
_SHIFT = np.float32([2 * _LOW - 0.4])


def digits(
  *,
  seed: int,
  train_size: int | None = None,
  test_size: int | None = None,
  balance: bool = False,
) -> Dataset:
  """Real handwritten digits of scikit-learn, jittered on a canvas so that test stays hard.

  The 1,797 8 x 8 digits are split by image first (1,200 for train, 597 for test). Each example
  is one of its split's digits, drawn with replacement, pasted at a random place of a 10 x 10
  canvas, plus N(0, 0.1²) noise; the network sees x -> 2x - 0.4. Defaults: 1,500 and 1,500.
  With `balance` as many of each class are drawn, in both splits; the first classes get the rest.

  Why not the plain digits: they are so easy that test features nearly collapse too.
  """
  sizes = [1500 if size is None else size for size in (train_size, test_size)]
  rng = np.random.default_rng([seed, 0x0D161750])  # apart from the stream that orders epochs
  train, test = (
    Split(*_jitter(*pool, size, rng, balance))
    for pool, size in zip(_pools(rng), sizes, strict=True)
  )
  return Dataset(train, test, tuple("0123456789"), _SCALE, _SHIFT)


def two_digits(
  *, seed: int, train_size: int | None = None, test_size: int | None = None
) -> Dataset:
  """Two jittered digits side by side, 10 x 20: class 10 * left + right, so "37" has label 37.

  Both digits are drawn independently, as those of `digits`. Defaults: 10,000 and 5,000.
  """
  sizes = 10_000 if train_size is None else train_size, 5000 if test_size is None else test_size
  rng = np.random.default_rng([seed, 0x2D161750])
  splits = []
  for pool, size in zip(_pools(rng), sizes, strict=True):
    (left, tens), (right, units) = _jitter(*pool, size, rng), _jitter(*pool, size, rng)
    splits.append(Split(np.concatenate([left, right], axis=2), 10 * tens + units))
  return Dataset(*splits, tuple(f"{label:02}" for label in range(100)), _SCALE, _SHIFT)


def _pools(rng):
  """(images, labels) of the base digits that train draws from, and of those that test does."""
  from sklearn import datasets  # half a second that other sources need not pay

  base = datasets.load_digits()
  order = rng.permutation(len(base.target))
  pools = order[:_BASE_TRAIN], order[_BASE_TRAIN:]
  return [(base.images[pool] / 16.0, base.target[pool]) for pool in pools]


def _jitter(images, labels, size, rng, balance=False) -> tuple[np.ndarray, np.ndarray]:
  pick = _pick_balanced(labels, size, rng) if balance else rng.integers(len(labels), size=size)
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
  return pixels.astype(np.uint8)[..., None], labels[pick].astype(np.int32)


def _pick_balanced(labels, size, rng) -> np.ndarray:
  """Places of base digits, as many of each class, in random order."""
  wanted = rng.permutation(np.arange(size) % (labels.max() + 1))
  pick = np.empty(size, np.int64)
  for label in range(labels.max() + 1):
    own = wanted == label
    pick[own] = rng.choice(np.flatnonzero(labels == label), own.sum())
  return pick
