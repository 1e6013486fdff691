"""Sets of examples in files: several files are shards of one set, and all must agree.

Only labels and head are read here; the features of a set may be larger than memory.
"""

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from nc_jax.errors import UserError
from nc_jax.exported import arrays
from nc_jax.exported.arrays import EXAMPLES, HEAD
from nc_jax.metrics import inputs
from nc_jax.npz import Stored, opened

_SHOWN = 5  # rows, classes or names listed in an error; the rest is counted
_SPARSE, _SPARSE_SHARE = 1000, 10  # labels that skip more classes than this look like other ids


class Shard(NamedTuple):
  """The examples of one file."""

  path: pathlib.Path
  features: Stored | np.ndarray  # [N, D] real numbers of any dtype
  labels: np.ndarray  # [N] integers of any dtype


class Found(NamedTuple):
  """A part of the linear head, and the file that holds it."""

  path: pathlib.Path
  array: np.ndarray


class FeatureSet(NamedTuple):
  """The shards of one set of examples, and what else their files hold."""

  shards: list[Shard]
  heads: dict[str, list[Found]]  # `weight` and `bias`
  unused: list[str]  # names of arrays that mean nothing to us

  @property
  def size(self) -> int:
    """N, the number of examples."""
    return sum(len(shard.labels) for shard in self.shards)

  @property
  def dim(self) -> int:
    """D, the width of the features."""
    return self.shards[0].features.shape[1]

  @property
  def dtypes(self) -> list[np.dtype]:
    """Of the features, in the order of the files."""
    return list(dict.fromkeys(shard.features.dtype for shard in self.shards))

  @property
  def classes(self) -> set[int]:
    """Those with examples."""
    return set().union(*(np.unique(shard.labels).tolist() for shard in self.shards))


def read(paths: Sequence[str], advance: Callable[[int], None] = lambda size: None) -> FeatureSet:
  """Opens the files of one set and checks all that can be checked without reading the features.

  Args:
    paths: the files.
    advance: told how many bytes were read for their checksum.

  Raises:
    UserError: a file is missing, damaged or of another kind; arrays are missing; shapes or
      dtypes are wrong or disagree between the files.
  """
  shards, heads, unused, seen = [], {}, {}, set()
  paths = _without_companions([pathlib.Path(path) for path in paths])
  for path in paths:
    if path.resolve() in seen:
      raise UserError(f"{path} is given twice.")
    seen.add(path.resolve())
    found = arrays.read(path, advance)
    unused |= dict.fromkeys(name for name in found if name not in EXAMPLES + HEAD)
    for name in HEAD:
      if name in found:
        heads.setdefault(name, []).append(Found(path, np.array(opened(found[name]))))
    if any(name in found for name in EXAMPLES) or not any(name in found for name in HEAD):
      shards.append(_shard(path, found))
  if not shards:
    raise UserError(f"no `features` and `labels` in {some(paths)}.")
  first = shards[0]
  for shard in shards[1:]:
    if shard.features.shape[1] != first.features.shape[1]:
      raise UserError(
        f"features of all files must have one width; got {list(first.features.shape)} in "
        f"{first.path} and {list(shard.features.shape)} in {shard.path}."
      )
  if not any(len(shard.labels) for shard in shards):
    raise UserError(f"there is no example in {some([shard.path for shard in shards])}.")
  return FeatureSet(shards, heads, list(unused))


def _without_companions(paths: list[pathlib.Path]) -> list[pathlib.Path]:
  """The files without the .npy files that belong to another one, for `*.npy` names them all."""
  owners = [path for path in paths if path.suffix == ".npy" and "features" in path.name]
  companions = {arrays.companion(path, name) for path in owners for name in ("labels", *HEAD)}
  return [path for path in paths if path not in companions]


def _shard(path: pathlib.Path, found: dict) -> Shard:
  missing = [name for name in EXAMPLES if name not in found]
  if missing:
    names = " and ".join(f"`{name}`" for name in missing)
    raise UserError(f"{path} lacks {names}; it holds {some(list(found)) or 'nothing'}.")
  features, labels = found["features"], np.array(opened(found["labels"]))
  _check_real("features", features, path)
  if len(features.shape) != 2:
    hint = "; flatten them to one row for each example" if len(features.shape) > 2 else ""
    raise UserError(f"features must have shape [N, D]; got {list(features.shape)} in {path}{hint}.")
  if features.shape[1] == 0:
    raise UserError(f"features must have columns; got {list(features.shape)} in {path}.")
  expected = f"[N] = [{features.shape[0]}] to match features {list(features.shape)}"
  if labels.shape != features.shape[:1]:
    hint = "; one-hot rows become labels by argmax(1)" if labels.ndim == 2 else ""
    if labels.size == features.shape[0]:
      hint = "; ravel() makes them so"
    raise UserError(f"labels must have shape {expected}; got {list(labels.shape)} in {path}{hint}.")
  if labels.dtype.kind not in "iu":
    whole = labels.dtype.kind in "bf" and (np.isfinite(labels) & (labels == np.rint(labels))).all()
    hint = "; .astype(int) makes them so" if whole else ""
    raise UserError(f"labels must be integers; got dtype {labels.dtype} in {path}{hint}.")
  return Shard(path, features, labels)


class Agreement(NamedTuple):
  """What all sets of one measurement share."""

  num_classes: int
  weight: np.ndarray | None  # [K, D]
  bias: np.ndarray | None  # [K]


def agree(sets: Sequence[FeatureSet], num_classes: int | None = None) -> Agreement:
  """The one head of all sets, and a K below which every label lies.

  Args:
    sets: the train set, and the test set if there is one.
    num_classes: K; None takes the rows of weight, else the largest label plus one.

  Raises:
    UserError: widths differ; heads differ, or do not fit; a label lies outside [0, K).
  """
  first = sets[0].shards[0]
  for other in sets[1:]:
    if other.dim != sets[0].dim:
      raise UserError(
        f"features of train and test must have one width; got D = {sets[0].dim} in {first.path} "
        f"and D = {other.dim} in {other.shards[0].path}."
      )
  found = {
    name: _only(name, [item for examples in sets for item in examples.heads.get(name, [])])
    for name in HEAD
  }
  weight, bias = found["weight"], found["bias"]
  _check_head(weight, bias, first)
  shards = [shard for examples in sets for shard in examples.shards if len(shard.labels)]
  rows = None if weight is None else len(weight.array)
  num_classes = _check_labels(shards, rows, num_classes)
  return Agreement(num_classes, weight and weight.array, bias and bias.array)


def _only(name: str, found: list[Found]) -> Found | None:
  """The array that all files agree on."""
  for path, array in found:
    _check_real(name, array, path)
    dtype = inputs.float_dtype()
    with np.errstate(over="ignore", under="ignore"):
      squares = array.astype(dtype) ** 2
    bad = int(np.sum(~np.isfinite(squares)))
    if bad:
      hint = in_float64("; --float64 takes such numbers", [array])
      raise UserError(
        f"{name} must be finite, and so must its squares in {dtype}; {bad} of {array.size} "
        f"numbers are nan, inf or too large in {path}{hint}."
      )
    if name == "weight" and array.any() and np.max(squares) < least_square(dtype):
      raise UserError(
        f"weight is too small: squares underflow in {dtype} in {path}; multiply it and bias by "
        f"one number{in_float64(', or give --float64')}."
      )
    if not np.array_equal(array, found[0].array):
      raise UserError(f"{found[0].path} and {path} hold different `{name}`; there can be one head.")
  return found[0] if found else None


def _check_head(weight: Found | None, bias: Found | None, shard: Shard):
  dim = shard.features.shape[1]
  if weight is None:
    if bias is not None:
      raise UserError(f"{bias.path} holds `bias`, but there is no `weight`.")
    return
  shape = list(weight.array.shape)
  if len(shape) != 2 or shape[1] != dim or not shape[0]:
    hint = ""
    if len(shape) == 2 and shape[0] == dim:
      hint = ": it looks transposed, as Flax stores kernels; save weight.T"
    raise UserError(
      f"weight must have shape [K, D] = [K, {dim}] to match features "
      f"{list(shard.features.shape)}; got {shape} in {weight.path}{hint}."
    )
  if bias is not None and list(bias.array.shape) != shape[:1]:
    raise UserError(
      f"bias must have shape [K] = {shape[:1]} to match weight {shape}; got "
      f"{list(bias.array.shape)} in {bias.path}."
    )


def _check_labels(shards: list[Shard], rows: int | None, num_classes: int | None) -> int:
  """K, which weight has for rows, or which was asked for, or which the labels show."""
  if rows is not None and num_classes not in (None, rows):
    raise UserError(f"--num_classes = {num_classes}, but weight has {rows} rows.")
  if rows is not None:
    num_classes, reason = rows, ", as weight has so many rows"
  elif num_classes is not None:
    reason = ", by --num_classes"
  else:
    largest = max(shards, key=lambda shard: int(shard.labels.max()))
    num_classes, reason = int(largest.labels.max()) + 1, ""
    if num_classes > _SPARSE:
      present = len(FeatureSet(shards, {}, []).classes)
      if num_classes > _SPARSE_SHARE * present:
        raise UserError(
          f"labels must be class indices in [0, K); they reach {num_classes - 1} in "
          f"{largest.path}, but only {present} differ. If that is right, give --num_classes."
        )
  for shard in shards:
    wrong = (shard.labels < 0) | (shard.labels >= num_classes)
    if wrong.any():
      row = int(np.argmax(wrong))
      raise UserError(
        f"labels must lie in [0, {num_classes}){reason}; got {shard.labels[row]} in row {row} of "
        f"{shard.path} ({int(wrong.sum())} of {len(wrong)} labels are outside)."
      )
  return num_classes


def _check_real(name: str, array, path: pathlib.Path):
  if array.dtype.kind not in "iuf":
    hint = ": bfloat16, perhaps; save it as float32" if array.dtype.str == "|V2" else ""
    raise UserError(f"{name} must hold real numbers; got dtype {array.dtype} in {path}{hint}.")


def least_square(dtype: np.dtype) -> float:
  """The least ‖h‖² at which the squares of what is rounded off, of eps ‖h‖, do not underflow."""
  return float(np.finfo(dtype).tiny) / float(np.finfo(dtype).eps) ** 2


def in_float64(hint: str, numbers: Iterable[np.ndarray] = ()) -> str:
  """The hint where --float64 would help: it was not given, and squares of all `numbers` fit it."""
  if jax.config.jax_enable_x64:
    return ""
  with np.errstate(over="ignore", invalid="ignore"):
    fit = all(np.isfinite(np.sum(np.asarray(part, np.float64) ** 2)) for part in numbers)
  return hint if fit else ""


def some(items) -> str:
  """The first few, and how many more."""
  more = len(items) - _SHOWN
  return ", ".join(map(str, items[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
