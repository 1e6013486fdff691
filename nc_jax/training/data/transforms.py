"""What an experiment changes in a data set: which examples it sees, and by which labels.

Every change is a function of the labels and the seed alone. They follow one another so:

  1. held_out         classes taken from both splits; the others are numbered anew
  2. balance, train_size, test_size, imbalance, in this order: examples left out
  3. label_map        classes merged, in both splits
  4. noise            labels of the train set corrupted

so that sizes and imbalance are those of the fine classes, and noise is among the coarse ones.
"""

import dataclasses

import numpy as np

from nc_jax.errors import UserError
from nc_jax.training.data.label_maps import coarse_map
from nc_jax.training.data.sets import Dataset, Split


@dataclasses.dataclass(frozen=True)
class Changes:
  """The changes; those of the defaults are none.

  held_out: labels or names of classes that become `Dataset.held_out`; None: none.
  balance: cut the train set to equal class sizes.
  train_size, test_size: so many examples, as equal among the classes as can be; None: all.
  imbalance: None, "step" or "exponential" class sizes of the train set, see `class_sizes`.
  imbalance_ratio: R, the largest class size over the smallest; given just if `imbalance` is.
  label_map: see `coarse_map`; None: no class is merged.
  noise_kind, noise_rate: see `corrupt`.
  """

  held_out: tuple[int | str, ...] | None = None
  balance: bool = False
  train_size: int | None = None
  test_size: int | None = None
  imbalance: str | None = None
  imbalance_ratio: float | None = None
  label_map: tuple[int, ...] | tuple[str, ...] | None = None
  noise_kind: str = "symmetric"
  noise_rate: float = 0.0


def transform(dataset: Dataset, changes: Changes, seed: int) -> Dataset:
  """The data set with all changes made. Raises UserError for what its classes do not allow."""
  for key, other in (("imbalance", "imbalance_ratio"), ("imbalance_ratio", "imbalance")):
    if getattr(changes, key) is None and getattr(changes, other) is not None:
      raise UserError(
        f"config.data.{key} = None, but config.data.{other} = {getattr(changes, other)!r}: "
        "give both or neither."
      )
  if changes.held_out is not None:
    dataset = hold_out(dataset, changes.held_out)
  train, test, classes = dataset.train, dataset.test, dataset.num_classes
  cut = lambda split, size, key: split.take(
    balanced(split.labels, classes, size, np.random.default_rng([seed, 0x7FD5]), key)
  )
  if changes.balance:
    size = int(np.bincount(train.labels, minlength=classes).min()) * classes
    train = cut(train, size, "config.data.balance")
  if changes.train_size is not None:
    train = cut(train, changes.train_size, "config.data.train_size")
  if changes.test_size is not None:
    test = cut(test, changes.test_size, "config.data.test_size")
  if changes.imbalance is not None:
    sizes = np.bincount(train.labels, minlength=classes)
    sizes = class_sizes(changes.imbalance, changes.imbalance_ratio, classes, int(sizes.min()))
    train = train.take(subset(train.labels, sizes, np.random.default_rng([seed, 0x1B41])))
  empty = np.flatnonzero(np.bincount(train.labels, minlength=classes) == 0)
  if empty.size:
    raise UserError(
      f"config.data: class {empty[0]} ({dataset.class_names[empty[0]]}) has no train example."
    )
  if not len(test):
    raise UserError("config.data: no test example is left.")
  dataset = dataclasses.replace(dataset, train=train, test=test)
  if changes.label_map is not None:
    dataset = coarsen(dataset, changes.label_map)
  given = corrupt(
    dataset.train.labels, changes.noise_kind, changes.noise_rate, dataset.num_classes, seed
  )
  return dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, labels=given))


def hold_out(dataset: Dataset, classes: tuple[int | str, ...]) -> Dataset:
  """The data set without these classes, which lie, numbered from 0 too, in its `held_out`."""
  names = dataset.class_names
  for entry in classes:
    if entry not in (names if isinstance(entry, str) else range(len(names))):
      raise UserError(
        f"config.data.held_out = {classes!r}: there is no class {entry!r} among "
        f"{len(names)} ({names[0]}, ..., {names[-1]})."
      )
  out = {names.index(entry) if isinstance(entry, str) else entry for entry in classes}
  if len(out) > len(names) - 2:
    raise UserError(f"config.data.held_out = {classes!r} leaves fewer than two classes.")

  def only(wanted: list[int]) -> Dataset:
    number = np.full(len(names), -1, np.int32)
    number[wanted] = np.arange(len(wanted))
    splits = (
      dataclasses.replace(part, labels=number[part.labels], clean=None, fine=None)
      for split in (dataset.train, dataset.test)
      for part in (split.take(np.flatnonzero(number[split.labels] >= 0)),)
    )
    return Dataset(*splits, tuple(names[k] for k in wanted), dataset.scale, dataset.shift)

  kept = only([k for k in range(len(names)) if k not in out])
  return dataclasses.replace(kept, held_out=only(sorted(out)))


def balanced(labels: np.ndarray, classes: int, size: int, rng, key: str) -> np.ndarray:
  """Places of `size` examples, as many of each class, the first classes one more if need be."""
  available = np.bincount(labels, minlength=classes)
  share, rest = divmod(size, classes)
  if share + (rest > 0) > available.min():
    raise UserError(
      f"{key} = {size}: a balanced subset has at most {available.min() * classes} "
      f"examples ({available.min()} in the smallest of {classes} classes)."
    )
  return subset(labels, np.full(classes, share) + (np.arange(classes) < rest), rng)


def class_sizes(kind: str, ratio: float, classes: int, largest: int) -> np.ndarray:
  """Sizes n_k [K] of an imbalanced train set, rounded; n_max is what every class has.

      step:          n_max for the first ceil(K / 2) classes, n_max / R for the others
      exponential:   n_max R^(-k / (K - 1))

  References: Buda et al. 2018, arXiv:1710.05381 (step); Cui et al. 2019, arXiv:1901.05555.
  """
  if ratio < 1:
    raise UserError(f"config.data.imbalance_ratio = {ratio}, but must be at least 1.")
  k = np.arange(classes)
  shares = {
    "step": np.where(k < (classes + 1) // 2, 1, 1 / ratio),
    "exponential": ratio ** (-k / (classes - 1)),
  }
  if kind not in shares:
    raise UserError(f"config.data.imbalance = {kind!r}, but must be {' or '.join(shares)} or None.")
  sizes = np.rint(largest * shares[kind]).astype(np.int64)
  if sizes.min() < 1:
    raise UserError(
      f"config.data.imbalance_ratio = {ratio} leaves the smallest class empty: the largest has "
      f"{largest} examples."
    )
  return sizes


def subset(labels: np.ndarray, sizes: np.ndarray, rng) -> np.ndarray:
  """Places, in order, of so many examples of each class, drawn at random."""
  order = rng.permutation(len(labels))
  chosen = [order[labels[order] == k][:size] for k, size in enumerate(sizes)]
  return np.sort(np.concatenate(chosen))


def coarsen(dataset: Dataset, label_map: tuple[int, ...] | tuple[str, ...]) -> Dataset:
  """The data set by coarse labels; `fine` keeps the others."""
  coarse, names = coarse_map(label_map, dataset.class_names)
  if len(names) < 2:
    raise UserError(f"config.data.label_map = {label_map!r} leaves one class.")
  merged = lambda split: Split(split.images, coarse[split.labels], None, split.fine, split.ids)
  return dataclasses.replace(
    dataset,
    train=merged(dataset.train),
    test=merged(dataset.test),
    class_names=names,
    fine_names=dataset.class_names,
  )


def corrupt(labels: np.ndarray, kind: str, rate: float, classes: int, seed: int) -> np.ndarray:
  """Labels of which exactly round(rate N) are wrong; the same array where none is.

  symmetric: a label becomes any other one, with equal chances. pairwise: k becomes k + 1 mod K.

  References: Patrini et al. 2017, arXiv:1609.03683; Han et al. 2018, arXiv:1804.06872.
  """
  if not 0 <= rate < 1:
    raise UserError(f"config.data.noise_rate = {rate}, but must be in [0, 1).")
  if kind not in ("symmetric", "pairwise"):
    raise UserError(f"config.data.noise_kind = {kind!r}, but must be symmetric or pairwise.")
  if rate == 0:
    return labels
  rng = np.random.default_rng([seed, 0x2015E])
  wrong = rng.choice(len(labels), round(rate * len(labels)), replace=False)
  step = rng.integers(1, classes, len(wrong)) if kind == "symmetric" else 1
  given = labels.copy()
  given[wrong] = (labels[wrong] + step) % classes
  return given
