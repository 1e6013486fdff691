"""Arrays from .npy and .npz files, which anything may have written, or damaged.

np.load trusts what a header says, and compares a checksum only where it has read to the end. Here
lengths and checksums are compared before a number is believed, nothing is allocated that the file
does not hold, and nothing is ever unpickled.
"""

import contextlib
import os
import pathlib
import warnings
import zipfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from nc_jax.errors import UserError

_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
}
_BLOCK = 1 << 24  # bytes read at a time where only a checksum is wanted


class Stored(NamedTuple):
  """An array that lies uncompressed in a file; mapped only while it is read, shard after shard."""

  path: pathlib.Path
  dtype: np.dtype
  shape: tuple[int, ...]
  order: str
  offset: int
  version: tuple[int, int]  # of the file when it was first opened: its size and time of change

  def open(self) -> np.ndarray:
    self.check()
    return np.memmap(self.path, self.dtype, "r", self.offset, self.shape, self.order)

  def check(self):
    """Raises UserError if the file is no longer what it was: its numbers would be of two files."""
    if _version(os.stat(self.path)) != self.version:
      raise UserError(f"{self.path} changed while it was read.")


def _version(stat: os.stat_result) -> tuple[int, int]:
  return stat.st_size, stat.st_mtime_ns


def machine_memory() -> int:
  """Bytes of memory that this machine has."""
  return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def opened(array: Stored | np.ndarray) -> np.ndarray:
  """Its numbers, mapped if they lie in a file."""
  return array.open() if isinstance(array, Stored) else array


def _untold(size: int):
  """Tells nobody."""


def load(path: pathlib.Path, names: Sequence[str]) -> dict[str, np.ndarray]:
  """Arrays of an .npz file, by name, in memory.

  Raises UserError: the file is missing, damaged or of another kind, lacks one, or holds objects.
  """
  found = read_npz(path, names)
  for name in names:
    if name not in found:
      raise UserError(f"{path} has no array {name}.")
  with readable(path):
    return {name: np.array(opened(found[name])) for name in names}


def read_npy(path: pathlib.Path) -> Stored | np.ndarray:
  """The array of an .npy file. Raises UserError as `read_npz`."""
  with readable(path), open(path, "rb") as file:
    return _stored(path, file, 0, os.path.getsize(path))


def read_npz(
  path: pathlib.Path, names: Sequence[str], advance: Callable[[int], None] = _untold
) -> dict[str, Stored | np.ndarray | None]:
  """The arrays of an .npz file; None for those whose names were not asked for.

  What np.savez wrote stays in the file; what np.savez_compressed wrote is held in memory.

  Args:
    path: the file.
    names: of the arrays.
    advance: told how many bytes were read for their checksum.

  Raises:
    UserError: the file is missing, damaged or of another kind, or holds objects.
  """
  found = {}
  with readable(path), zipfile.ZipFile(path) as archive, open(path, "rb") as file:
    members = {info.filename: info for info in archive.infolist()}
    if not any(name.endswith(".npy") for name in members):
      pickled = any(name.endswith("data.pkl") for name in members)
      raise UserError(
        f"{path} holds no arrays" + (": torch.save wrote it; use np.savez." if pickled else ".")
      )
    for name, info in members.items():
      name = name.removesuffix(".npy")
      if name not in names:
        found[name if name.isprintable() else ascii(name)] = None
      elif info.compress_type != zipfile.ZIP_STORED:
        found[name] = _decompress(archive, info)
      else:
        _verify(archive, info, advance)
        file.seek(info.header_offset + 26)  # lengths of the name and of what follows it
        lengths = np.frombuffer(file.read(4), "<u2")
        start = info.header_offset + 30 + int(lengths.sum())
        found[name] = _stored(path, file, start, start + info.file_size)
  return found


def _verify(archive: zipfile.ZipFile, info: zipfile.ZipInfo, advance):
  """Reads a member to its end, where zipfile compares checksums."""
  with archive.open(info) as member:
    while block := member.read(_BLOCK):
      advance(len(block))


def _decompress(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
  with archive.open(info) as member:
    shape, order, dtype = _header(member)
    _check_size(info.file_size - member.tell(), shape, dtype)
    if info.file_size > machine_memory():  # before a small file unfolds to one of any size
      raise MemoryError
    data = member.read()
  return np.frombuffer(data, dtype).reshape(shape, order=order)


def _stored(path: pathlib.Path, file, start: int, stop: int) -> Stored | np.ndarray:
  """The array whose .npy text lies in bytes [start, stop) of `file`."""
  file.seek(start)
  shape, order, dtype = _header(file)
  offset = file.tell()
  _check_size(stop - offset, shape, dtype)
  if 0 in shape:  # which cannot be mapped
    return np.empty(shape, dtype)
  return Stored(path, dtype, shape, order, offset, _version(os.fstat(file.fileno())))


def _check_size(size: int, shape: tuple[int, ...], dtype: np.dtype):
  if size != int(np.prod(shape, dtype=object)) * dtype.itemsize:
    raise ValueError(f"it has {size} bytes for shape {list(shape)} of {dtype}")


class _Objects(Exception):
  """An array of pickled Python objects."""


def _header(file) -> tuple[tuple[int, ...], str, np.dtype]:
  version = np.lib.format.read_magic(file)
  if version not in _HEADERS:  # NumPy writes others for records alone
    raise ValueError(f"its .npy format is {version}, where (1, 0) or (2, 0) was expected")
  with warnings.catch_warnings():  # Python's parser comments on what a damaged header spells
    warnings.simplefilter("ignore")
    shape, fortran, dtype = _HEADERS[version](file)
  if dtype.hasobject:
    raise _Objects
  if any(length < 0 for length in shape) or not dtype.itemsize:  # empty text: any shape would fit
    raise ValueError(f"its shape is {list(shape)} of {dtype}")
  np.broadcast_to(np.empty((), dtype), shape)  # raises for what no array of NumPy's can have
  return shape, "F" if fortran else "C", dtype


@contextlib.contextmanager
def readable(path: pathlib.Path):
  """Says which file it was when it cannot be read."""
  try:
    if path.exists() and not path.is_file():
      raise UserError(f"{path} is not a file.")
    yield
  except UserError:
    raise
  except _Objects:
    raise UserError(f"{path} holds pickled objects, not numbers; they stay unread.") from None
  except FileNotFoundError:
    raise UserError(f"there is no file {path}.") from None
  except PermissionError:
    raise UserError(f"{path} may not be read by this user.") from None
  except MemoryError:
    raise UserError(f"{path} is compressed and larger than memory; write it by np.savez.") from None
  except Exception as error:  # damaged files raise whatever zipfile, zlib and ast come across
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    raise UserError(f"{path} cannot be read, is it damaged or cut short? {text}.") from error
