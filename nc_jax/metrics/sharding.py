"""How a pass walks over the examples: in chunks on one device, by rows over several."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding

from nc_jax.metrics import in_place, inputs
from nc_jax.metrics.in_place import take

CHUNK_BYTES = 2**27  # a chunk of examples takes no more


def split_of(features) -> tuple[Mesh, tuple[str, ...]] | None:
  """The mesh and axes over which the examples lie spread; None for one device or inside jit."""
  if isinstance(features, jax.core.Tracer) or not isinstance(features, jax.Array):
    return None
  sharding = features.sharding
  if not isinstance(sharding, NamedSharding) or not sharding.spec or sharding.spec[0] is None:
    return None
  axes = sharding.spec[0]
  axes = axes if isinstance(axes, tuple) else (axes,)
  size = 1
  for axis in axes:
    size *= sharding.mesh.shape[axis]
  return (sharding.mesh, axes) if size > 1 else None


def varying(state, *data):
  """The same state, which varies over the devices of a shard_map as the data do.

  Where shard_map checks that (`check_vma`), a loop's state may not begin as a constant.
  """
  if not jax.sharding.get_abstract_mesh().manual_axes:
    return state
  zero = sum(jnp.where(x.reshape(-1)[0] > 0, 0, 0) for x in jax.tree.leaves(data) if x.size)
  return jax.tree.map(lambda x: x + zero.astype(x.dtype), state)


def chunk_rows(dim: int = 1) -> int:
  """Rows of D features per step: few, which stay in a CPU's cache; many, to fill an accelerator."""
  most = 1024 if jax.default_backend() == "cpu" else 65536
  return max(1, min(most, CHUNK_BYTES // (4 * dim)))


def sent_once(features):
  """Features of several passes: those in NumPy on JAX's device, if they fit a quarter of its room.

  Else every pass sends them anew, slice by slice; a CPU reads them where they lie.
  """
  if not isinstance(features, np.ndarray) or jax.default_backend() == "cpu":
    return features
  itemsize = min(features.itemsize, inputs.float_dtype().itemsize)  # JAX converts wider ones
  return jax.device_put(features) if features.size * itemsize <= _room() / 4 else features


def _room() -> int:
  """Bytes free on JAX's device; 0 where it does not say."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)


def fold_slices(
  steps: tuple[Callable, Callable], state, arrays: tuple, least: int, place: Callable | None = None
):
  """Folds arrays into `state` by `step(state, *arrays, skip)`, NumPy arrays slice by slice.

  The device need not hold all of it: at most two slices are there, the next one on its way while
  the last is worked on. The slices are as `host_slices` cuts them.

  Args:
    steps: the compiled step for the first slice, and for those after it.
    state: what has been seen so far.
    arrays: features [N, D], and what belongs to them: [N] each, or None.
    least: rows of a slice at least, so that the work outweighs the state that goes in and out.
    place: puts a slice of the arrays on the devices; None: on JAX's own, or where they lie.
  """
  before = None
  step, following = steps
  for part, skip in host_slices(arrays, least, place):
    after = step(state, *part, skip)
    jax.block_until_ready(before)
    step, state, before = following, after, after
  return state


def host_slices(arrays: tuple, least: int, place: Callable | None = None):
  """Yields (arrays, skip): NumPy arrays slice by slice, on the device; others in one piece.

  In one piece too, if not of too many numbers, are those that a CPU reads where they lie. Slices
  are of equal size, for one program. Where they do not fit, the last one starts early, and its
  first `skip` rows are those that the one before it has seen. Of one piece it is None: a number
  would be sent to the device for nothing.
  """
  if not isinstance(arrays[0], np.ndarray):
    yield arrays, None
    return
  size, dim = arrays[0].shape
  rows = max(8 * chunk_rows(dim), least)
  if place is None and in_place.is_read_there(arrays[0]):
    rows = max(1, in_place.MOST // dim)  # they take no memory of the device
  count = max(1, -(-size // rows))
  rows = -(-size // count)
  for part in range(count):
    start = min(part * rows, size - rows)
    here = slice(start, start + rows)
    sliced = jax.tree.map(lambda x, here=here: np.asarray(x)[here], arrays)
    yield (place or in_place.put)(sliced), None if count == 1 else part * rows - start


def scan_chunks(
  step: Callable, state, features: Array, labels: Array, mask, skip=None, rows: int | None = None
):
  """Folds (features [B, D], labels [B], mask [B]) chunks into `state` by `step(state, chunk)`.

  The chunks are of equal size and read in place. When they do not fit, the last one starts
  early, and the mask leaves out the rows that the one before it has seen, as it does the first
  `skip` rows of all, if that is not None. At most `rows` each, or `chunk_rows(D)`.
  """
  size = features.shape[0]
  rows = rows or chunk_rows(features.shape[1])
  chunks = -(-size // rows)
  rows = -(-size // chunks)
  state = varying(state, features, labels, mask)

  def body(state, chunk):
    start = jnp.minimum(chunk * rows, size - rows)
    if chunks == 1 and skip is None:
      keep = jnp.ones(rows, bool)
    else:
      keep = start + jnp.arange(rows) >= jnp.maximum(chunk * rows, 0 if skip is None else skip)
    keep = keep if mask is None else keep & take(mask, start, rows)
    return step(state, (take(features, start, rows), take(labels, start, rows), keep))

  if chunks == 1:
    return body(state, 0)[0]
  return lax.scan(body, state, jnp.arange(chunks))[0]


def map_chunks(function: Callable, features: Array, rows: int | None = None) -> Array:
  """function([B, D]) -> [B] over all rows of features [N, D], chunk by chunk; [N]."""
  size = features.shape[0]
  chunks = max(1, -(-size // (rows or chunk_rows(features.shape[1]))))
  rows = -(-size // chunks)
  starts = jnp.minimum(jnp.arange(chunks) * rows, size - rows)
  mapped = lax.map(lambda start: function(take(features, start, rows)), starts)
  done = (chunks - 1) * rows
  return jnp.concatenate([mapped[:-1].reshape(-1), mapped[-1, rows - (size - done) :]])


def replaced_where(needed: Array, function: Callable, old, rows: int):
  """`old`, arrays [B, ...], with function(places [R]) where `needed` [B]; R = `rows` at a time.

  For what few need. The last time others may be among the R: `function` must know them too.
  """
  size = needed.size
  place = jnp.arange(size, dtype=jnp.int32)
  # Those in need come first. A sort takes no longer than jnp.nonzero, and is far fewer kernels.
  order = jnp.sort(jnp.where(needed, place, place + size)) % size
  rows = min(rows, size)

  def step(block, old):
    places = lax.dynamic_slice_in_dim(order, block * rows, rows)
    return jax.tree.map(lambda x, new: x.at[places].set(new), old, function(places))

  return lax.fori_loop(0, -(-jnp.sum(needed) // rows), step, old)
