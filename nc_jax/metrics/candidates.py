"""What a feature chooses among: the class means, and the head's classes."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from nc_jax.metrics.centring import centre, logits_at_centre
from nc_jax.metrics.columns import Columns
from nc_jax.metrics.moments import ClassMoments, Head
from nc_jax.metrics.products import HIGHEST

CLASS_TILE = 512  # scores are held for this many classes at a time


class Candidates(NamedTuple):
  """What a feature chooses among.

      argmin_k ‖h − μ_k‖² = argmax_k (h − μ_G)·m_k − ‖m_k‖²/2     m_k = μ_k − μ_G

  Centred on both sides: the expanded distance would lose the decision to a common offset.

  Attributes:
    base, offset: [D], whose sum is μ_G.
    rivals: (rows [K, D], biases [K]) of the class means and, with a head, of the head. For split
      moments a device holds whole rows of some of the classes; see `Columns.by_classes`.
  """

  base: Array
  offset: Array
  rivals: list[tuple[Array, Array]]

  @classmethod
  def of(cls, moments: ClassMoments, head: Head | None = None) -> "Candidates":
    centred = centre(moments)
    means, present, _, base, offset = centred
    rivals = [(means, jnp.where(present, -jnp.sum(means**2, axis=1) / 2, -jnp.inf))]
    if head is not None:
      rivals.append((head.weight, logits_at_centre(centred, head)))
    if (columns := moments.columns) is not None:
      padded = -moments.num_classes % columns.mesh.size
      rivals = [
        (columns.by_classes(rows), jnp.pad(bias, (0, padded), constant_values=-jnp.inf))
        for rows, bias in rivals
      ]
    return cls(base, offset, rivals)

  def chosen_by(self, features: Array, columns: Columns | None = None) -> list[Array]:
    """The nearest present class mean [B] int32 and, with a head, its choice."""
    base, offset, rivals = self
    about = (features.astype(base.dtype) - base) - offset
    if columns is None:
      return [index for _, index in _best_rows(about, rivals)]
    best = _best_rows(columns.whole(about), rivals)
    classes = len(rivals[0][1])
    return [columns.first_of_best(score, index, classes) for score, index in best]


def _best_rows(features: Array, rivals: list[tuple[Array, Array]]) -> list[tuple[Array, Array]]:
  """`_best_row` of each (rows [K, D], bias [K])."""
  if len(rivals) * len(rivals[0][1]) > CLASS_TILE:
    return [_best_row(features, rows, bias) for rows, bias in rivals]
  # Of few classes, one product for all: a narrow one takes as long.
  rows, biases = (jnp.concatenate(x) for x in zip(*rivals, strict=True))
  scores = jnp.matmul(features, rows.T, precision=HIGHEST) + biases
  return [_best(own) for own in jnp.split(scores, len(rivals), axis=1)]


def _best_row(features: Array, rows: Array, bias: Array) -> tuple[Array, Array]:
  """[B] max_k of features·rows_k + bias_k, and its k, int32; the first of equals, by tiles."""
  num_classes = rows.shape[0]

  def best(rows: Array, bias: Array) -> tuple[Array, Array]:
    return _best(jnp.matmul(features, rows.T, precision=HIGHEST) + bias)

  if num_classes <= 2 * CLASS_TILE:
    return best(rows, bias)
  tiles = -(-num_classes // CLASS_TILE)
  width = -(-num_classes // tiles)

  def step(champion, tile):
    # The last tile starts early rather than run over; seeing a class twice changes nothing.
    start = jnp.minimum(tile * width, num_classes - width)
    cut = functools.partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=width)
    score, index = best(cut(rows), cut(bias))
    better = score > champion[0]
    return (
      jnp.where(better, score, champion[0]),
      jnp.where(better, start + index, champion[1]),
    ), None

  worst = jnp.full(features.shape[0], -jnp.inf, features.dtype)
  first = (worst, jnp.zeros_like(worst, jnp.int32))
  return lax.scan(step, first, jnp.arange(tiles))[0]


def _best(scores: Array) -> tuple[Array, Array]:
  """[B] the highest of scores [B, K], and where it is first, int32."""
  # Not jnp.argmax, which a CPU runs score by score: the largest, then the first that equals it.
  score, last = jnp.max(scores, axis=1), scores.shape[1] - 1
  index = lax.broadcasted_iota(jnp.int32, scores.shape, 1)
  return score, jnp.min(jnp.where(scores == score[:, None], index, last), axis=1)
