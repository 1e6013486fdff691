"""How a pass walks over the examples: in chunks on one device, by rows over several."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding


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


def chunk_rows() -> int:
  """Rows per step: the working set stays in a CPU's cache, and fills an accelerator."""
  return 1024 if jax.default_backend() == "cpu" else 16384


def scan_chunks(step: Callable, state, features: Array, labels: Array, mask, rows=None):
  """Folds (features [B, D], labels [B], mask [B]) chunks into `state` by `step(state, chunk)`.

  The chunks are of equal size and read in place. When they do not fit, the last one starts
  early, and the mask leaves out the rows that the one before it has seen.
  """
  size = features.shape[0]
  rows = rows or chunk_rows()
  chunks = -(-size // rows)
  rows = -(-size // chunks)
  if chunks == 1:
    mask = jnp.ones(size, bool) if mask is None else mask
    return step(state, (features, labels, mask))[0]

  def body(state, chunk):
    start = jnp.minimum(chunk * rows, size - rows)

    def take(x):
      return lax.dynamic_slice_in_dim(x, start, rows)

    keep = start + jnp.arange(rows) >= chunk * rows
    keep = keep if mask is None else keep & take(mask)
    return step(state, (take(features), take(labels), keep))

  return lax.scan(body, state, jnp.arange(chunks))[0]


def map_chunks(function: Callable, features: Array) -> Array:
  """function([B, D]) -> [B] over all rows of features [N, D], chunk by chunk; [N]."""
  size = features.shape[0]
  chunks = max(1, -(-size // chunk_rows()))
  rows = -(-size // chunks)
  starts = jnp.minimum(jnp.arange(chunks) * rows, size - rows)
  mapped = lax.map(
    lambda start: function(lax.dynamic_slice_in_dim(features, start, rows)), starts
  )
  done = (chunks - 1) * rows
  return jnp.concatenate([mapped[:-1].reshape(-1), mapped[-1, rows - (size - done) :]])
