"""The arrays of one file, which any framework may have written, by name.

    NAME.npz          arrays `features` [N, D] and `labels` [N]; `weight` [K, D] and `bias` [K],
                      the linear head, may lie beside them or in an .npz file of their own
    *features*.npy    `features`; the other arrays are files of the same name with `features`
                      replaced by `labels`, `weight` or `bias`

What np.save and np.savez wrote is memory-mapped; what np.savez_compressed wrote is held in memory.
"""

import pathlib
from collections.abc import Callable

import numpy as np

from nc_jax.errors import UserError
from nc_jax.npz import Stored, read_npy, read_npz, readable

EXAMPLES, HEAD = ("features", "labels"), ("weight", "bias")


def read(path: pathlib.Path, advance: Callable[[int], None]) -> dict[str, Stored | np.ndarray]:
  """The arrays of a file, and of the .npy files that belong to it; None for unknown names.

  Args:
    path: the file.
    advance: told how many bytes were read for their checksum.

  Raises:
    UserError: the file is missing, damaged or of another kind, or holds objects.
  """
  with readable(path), open(path, "rb") as file:
    magic = file.read(6)
  if magic[:4] == b"PK\x03\x04" or magic[:4] == b"PK\x05\x06":  # the latter: an empty archive
    return read_npz(path, EXAMPLES + HEAD, advance)
  if magic == b"\x93NUMPY":
    return _read_npy(path)
  if not magic:
    raise UserError(f"{path} is empty.")
  raise UserError(f"{path} is neither an .npz nor an .npy file.")


def companion(path: pathlib.Path, name: str) -> pathlib.Path:
  """The .npy file of an array `name` that belongs to the features in `path`."""
  before, _, after = path.name.rpartition("features")
  return path.with_name(before + name + after)


def _read_npy(path: pathlib.Path) -> dict[str, Stored | np.ndarray]:
  if "features" not in path.name:
    raise UserError(
      f"{path}: an .npy file must be called *features*.npy, with *labels*.npy beside it."
    )
  found = {}
  for name in EXAMPLES + HEAD:
    part = companion(path, name)
    if name in EXAMPLES or part.exists():
      found[name] = read_npy(part)
  return found
