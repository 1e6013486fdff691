"""Products at full precision; symmetric ones cost little more than half."""

import jax
import jax.numpy as jnp
from jax import Array, lax

HIGHEST = lax.Precision.HIGHEST  # accelerators may otherwise round the factors


def squared_norms(rows: Array) -> Array:
  """[B] ‖row‖²; on a CPU a product with ones is faster than a sum over rows."""
  return jnp.matmul(rows**2, jnp.ones(rows.shape[1], rows.dtype), precision=HIGHEST)


def gram(rows: Array) -> Array:
  """[D, D] rowsᵀ rows, from the blocks on and above the diagonal."""
  return join_blocks(gram_blocks(rows))


def gram_blocks(rows: Array) -> tuple[Array, ...]:
  """The upper block rows of rowsᵀ rows: block i is rows[:, i]ᵀ rows[:, i:]."""
  edges = _block_edges(rows.shape[1])
  return tuple(
    jnp.matmul(rows[:, lo:hi].T, rows[:, lo:], precision=HIGHEST)
    for lo, hi in zip(edges[:-1], edges[1:], strict=True)
  )


def split_blocks(scatter: Array) -> tuple[Array, ...]:
  """The upper block rows of a symmetric [D, D] matrix, as `gram_blocks` makes them."""
  edges = _block_edges(scatter.shape[0])
  return tuple(scatter[lo:hi, lo:] for lo, hi in zip(edges[:-1], edges[1:], strict=True))


def join_blocks(blocks: tuple[Array, ...]) -> Array:
  """The symmetric [D, D] matrix of its upper block rows."""
  edges = _block_edges(blocks[0].shape[1])
  rows = []
  for i, (lo, hi) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
    left = [blocks[j][:, lo - edges[j] : hi - edges[j]].T for j in range(i)]
    rows.append(jnp.concatenate([*left, blocks[i]], axis=1))
  return jnp.concatenate(rows, axis=0)


def _block_edges(dim: int) -> list[int]:
  """Column edges of the blocks; narrow features stay in one piece.

  On a CPU narrow blocks save most, nearly half of the product, but no width that is a multiple of
  64, which is slow. An accelerator wants few and wide ones, of 512 columns at least: four are
  10/16 of the product.
  """
  if dim < 256:
    return [0, dim]
  if jax.default_backend() == "cpu":
    width = 144 if dim < 1024 else 272
  else:
    width = max(512, -(-dim // 4))
  return [*range(0, dim, width), dim]
