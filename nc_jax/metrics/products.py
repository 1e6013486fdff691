"""Products at full precision; symmetric ones cost little more than half."""

import jax
import jax.numpy as jnp
from jax import Array, lax

HIGHEST = lax.Precision.HIGHEST  # accelerators may otherwise round the factors


def squared_norms(rows: Array, *, new: bool = False) -> Array:
  """[B] ‖row‖².

  Of rows that lie in memory a CPU takes the sum fastest. `new` are those that are computed for
  their norms alone: their squares are taken as they come, and never make a pass of their own.
  """
  if not new or jax.default_backend() != "cpu":
    return jnp.sum(rows**2, axis=1)
  return jnp.matmul(rows**2, jnp.ones(rows.shape[1], rows.dtype), precision=HIGHEST)


def gram(rows: Array) -> Array:
  """[D, D] rowsᵀ rows, from the blocks on and above the diagonal."""
  dim = rows.shape[1]
  return join_blocks(gram_blocks([rows[:, own] for own in panels(dim)]), dim)


def gram_blocks(parts: list[Array]) -> tuple[Array, ...]:
  """The blocks of rowsᵀ rows on and above the diagonal, of rows [B, D] in their `panels`."""
  if len(parts) > 1:
    factors = [(part, other) for i, part in enumerate(parts) for other in parts[i:]]
  else:
    (rows,) = parts
    factors = [(rows[:, own], rows[:, other]) for own, other in _blocks(rows.shape[1])]
  return tuple(jnp.matmul(part.T, other, precision=HIGHEST) for part, other in factors)


def add_blocks(blocks: tuple, more: tuple, some: Array) -> tuple[Array, ...]:
  """`blocks` and `more`, which is 0 unless `some`, a bool []."""
  if jax.default_backend() != "cpu":
    return jax.tree.map(jnp.add, blocks, more)
  # A CPU adds several times as fast where adding is not all that it does.
  return jax.tree.map(lambda old, new: jnp.where(some, old + new, old), blocks, more)


def split_blocks(scatter: Array) -> tuple[Array, ...]:
  """The blocks of a symmetric [D, D] matrix, as `gram_blocks` makes them."""
  return tuple(scatter[own, other] for own, other in _blocks(scatter.shape[0]))


def join_blocks(blocks: tuple[Array, ...], dim: int) -> Array:
  """The symmetric [D, D] matrix of its blocks."""
  whole = jnp.zeros((dim, dim), blocks[0].dtype)
  for block, (own, other) in zip(blocks, _blocks(dim), strict=True):
    for part, corner in ((block.T, (other.start, own.start)), (block, (own.start, other.start))):
      whole = lax.dynamic_update_slice(whole, part, corner)
  return whole


def panels(dim: int) -> list[slice]:
  """Columns of the parts in which a CPU is to compute rows for `gram_blocks`, about 150 or D / 6.

  Each in memory of its own, for slices of a matrix would be copied; in whole registers of 16
  numbers, but no multiple of 64, which is slow. An accelerator takes rows in one piece.
  """
  count = min(6, round(dim / 150))
  if jax.default_backend() != "cpu" or count < 2:
    return [slice(0, dim)]
  width = 16 * -(-dim // (16 * count))
  return _cut(dim, width if width % 64 else width + 16)


def _blocks(dim: int) -> list[tuple[slice, slice]]:
  """Rows and columns of the blocks, a little more than half of the matrix.

  On a CPU a panel meets itself and each one after it. An accelerator wants few and wide products,
  of 512 columns at least, with all from their own on: four are 10/16 of the whole.
  """
  if jax.default_backend() == "cpu":
    parts = panels(dim)
    return [(own, other) for i, own in enumerate(parts) for other in parts[i:]]
  return [(own, slice(own.start, dim)) for own in _cut(dim, max(512, -(-dim // 4)))]


def _cut(dim: int, width: int) -> list[slice]:
  return [slice(start, min(start + width, dim)) for start in range(0, dim, width)]
