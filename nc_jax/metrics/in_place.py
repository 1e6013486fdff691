"""NumPy features that a CPU reads where they lie, wherever they begin."""

import dataclasses

import jax
import numpy as np
from jax import Array, lax

from nc_jax.metrics import inputs

LINE = 64  # bytes; what XLA reads in place must begin at a multiple of these
LEAST = 2**25  # bytes; less is copied fast, and so one program serves batches that begin anywhere
MOST = 2**31 - 2 * LINE  # numbers; they are counted in int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
  """Features [N, D] in memory that begins a little before them; a pytree.

  Attributes:
    memory: [M] numbers, the features among them, row by row.
    before: [] int32, how many lie before the first feature.
    shape: (N, D).
  """

  memory: Array
  before: Array
  shape: tuple[int, int] = dataclasses.field(metadata={"static": True})


def take(x: Array | Rows, start, rows: int) -> Array:
  """[rows, ...] the rows of x from `start` on; inside jit."""
  if not isinstance(x, Rows):
    return lax.dynamic_slice_in_dim(x, start, rows)
  dim = x.shape[1]
  numbers = lax.dynamic_slice_in_dim(x.memory, x.before + start * dim, rows * dim)
  return numbers.reshape(rows, dim)


def put(arrays: tuple) -> tuple:
  """The same on JAX's device: features [N, D] in NumPy, and what belongs to them, [N] or None."""
  features, *others = arrays
  if jax.default_backend() == "cpu":
    features = _readable(features)
  return jax.device_put((features, *others))


def is_read_there(features: np.ndarray) -> bool:
  """Whether `put` copies none of these features, nor of as many of their rows as MOST allows."""
  return (
    jax.default_backend() == "cpu"
    and features.flags.c_contiguous
    and features.nbytes >= LEAST
    and features.ctypes.data % features.itemsize == 0
    and features.itemsize <= inputs.float_dtype().itemsize  # JAX would convert wider ones
  )


def _readable(x: np.ndarray) -> np.ndarray | Rows:
  """`x` as it is, if it begins with a line; else the lines that it lies in, or a copy.

  NumPy's own large arrays begin 16 bytes off a line. JAX would copy them, into memory whose pages
  come one by one, which was seen to take ten times as long as the large ones taken here.
  """
  begin = x.ctypes.data
  if x.flags.c_contiguous and begin % LINE == 0:
    return x
  if is_read_there(x) and x.size <= MOST:
    memory = np.asarray(_Lines(x)).view(x.dtype)
    return Rows(memory, np.int32(begin % LINE // x.itemsize), x.shape)
  memory = np.empty(x.nbytes + LINE, np.uint8)
  copy = memory[-memory.ctypes.data % LINE :][: x.nbytes].view(x.dtype).reshape(x.shape)
  copy[...] = x
  return copy


class _Lines:
  """The bytes of all lines that x lies in, for NumPy, which keeps this object and so x.

  What lies there beside x is never read. It could be: a line is never part of two pages.
  """

  def __init__(self, x: np.ndarray):
    self.owner = x
    begin = x.ctypes.data // LINE * LINE
    size = x.ctypes.data + x.nbytes - begin
    self.__array_interface__ = {
      "version": 3,
      "data": (begin, True),  # read only
      "shape": (size + -size % LINE,),
      "typestr": "|u1",
    }
