"""Balls about the class means in which both decisions are certain, so that no score is needed."""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

from nc_jax.metrics.centring import centre, logits_at_centre
from nc_jax.metrics.columns import Columns
from nc_jax.metrics.moments import ClassMoments, Head
from nc_jax.metrics.products import HIGHEST
from nc_jax.metrics.sharding import chunk_rows

_TILE = 512  # class means scored at a time
_SLACK = 1e-5  # of the largest term of a score: what rounding may take from a margin


def pays(examples: int, num_classes: int) -> bool:
  """Whether the K² scores of the class means, and compiling them, cost little beside N K."""
  return examples >= 4 * max(num_classes, chunk_rows())


@jax.jit
def radii(moments: ClassMoments, head: Head | None) -> Array:
  """[K] r_k: a feature with ‖h − μ_k‖ < r_k is nearest to μ_k, and the head decides for k.

      2 r_k ≤ min_{j≠k} ‖μ_k − μ_j‖                                      the triangle inequality
      r_k max_j ‖w_k − w_j‖ ≤ min_{j≠k} (w_k − w_j)·μ_k + b_k − b_j       a linear function's slope

  Only present classes rival for the nearest mean, all for the head. Less 1 % for rounding; 0 for
  an empty class. Near collapse nearly every example lies in the ball of its class.
  """
  centred = centre(moments)
  means, present, columns = centred.means, centred.present, moments.columns
  weight = bias = slope = None
  if head is not None:
    weight, bias = head.weight, logits_at_centre(centred, head)
    about = weight - jnp.mean(weight, axis=0)
    length = jnp.sqrt(jnp.sum(about**2, axis=1))
    slope = length + jnp.max(length)  # at least every ‖w_k − w_j‖
  of_class = (jnp.sum(means**2, axis=1), present, bias, slope)
  if columns is None:
    return _radii(means, of_class, means, weight)
  by_classes = lambda rows: None if rows is None else columns.by_classes(rows)
  local = columns.map(
    functools.partial(_radii, columns=columns),
    (columns.wide, PartitionSpec(), columns.rows, columns.rows),
    PartitionSpec(),
  )
  return local(means, of_class, by_classes(means), by_classes(weight))


def _radii(means, of_class, rivals, weight, columns: Columns | None = None) -> Array:
  """The radii, tile by tile of class means [K, D] against all rivals [K, D]; of split moments,
  against the rivals that one device has whole, and then among devices."""
  square, present, bias, slope = of_class
  num_classes, width = len(square), min(_TILE, len(square))
  index = jnp.arange(len(rivals))
  if columns is not None:
    index += columns.index() * len(rivals)
  exists = index < num_classes
  rival = lambda x, fill: x.at[index].get(mode="fill", fill_value=fill)
  least, most, total = (
    (lambda x: x,) * 3 if columns is None else (columns.least, columns.most, columns.total)
  )

  def of_tile(start):
    own = start + jnp.arange(width)
    cut = lambda x: lax.dynamic_slice_in_dim(x, start, width)
    tile = cut(means) if columns is None else columns.whole(cut(means))
    other = (own[:, None] != index) & exists
    dots = jnp.matmul(tile, rivals.T, precision=HIGHEST)
    apart = cut(square)[:, None] + rival(square, 0) - 2 * dots - _SLACK * jnp.max(square)
    apart = jnp.min(jnp.where(other & rival(present, False), apart, jnp.inf), axis=1)
    radius = jnp.sqrt(jnp.maximum(least(apart), 0)) / 2
    if weight is not None:
      scores = jnp.matmul(tile, weight.T, precision=HIGHEST) + rival(bias, 0)
      margin = total(jnp.sum(jnp.where(own[:, None] == index, scores, 0), axis=1))
      margin -= most(jnp.max(jnp.where(other, scores, -jnp.inf), axis=1))
      margin -= _SLACK * most(jnp.max(jnp.abs(scores), axis=1))
      radius = jnp.minimum(radius, jnp.maximum(margin, 0) / cut(slope))
    return 0.99 * jnp.where(cut(present), radius, 0)

  tiles = -(-num_classes // width)
  # The last tile starts early rather than run over; its first classes are seen twice.
  starts = jnp.minimum(jnp.arange(tiles) * width, num_classes - width)
  found = lax.map(of_tile, starts)
  places = starts[:, None] + jnp.arange(width)
  return jnp.zeros_like(square).at[places].set(found)


def where_needed(choices, features: Array, labels: Array, certain: Array, number: int, rows: int):
  """`choices(features)` where a decision is not certain, the label where it is.

  Args:
    choices: [B, D] -> `number` arrays [B] int32.
    features: [B, D].
    labels: [B] int32, what a certain decision decides for.
    certain: [B] bool.
    number: how many decisions.
    rows: examples scored at a time.
  """
  rows = min(rows, features.shape[0])
  (order,) = jnp.nonzero(~certain, size=certain.size, fill_value=0)  # those in need come first
  features = lax.stop_gradient(features)

  def score(block, decided):
    places = lax.dynamic_slice_in_dim(order, block * rows, rows)
    found = choices(features[places])
    return [old.at[places].set(new) for old, new in zip(decided, found, strict=True)]

  needed = jnp.sum(~certain)
  return lax.cond(
    2 * needed > features.shape[0],
    lambda: choices(features),
    lambda: lax.fori_loop(0, -(-needed // rows), score, [labels] * number),
  )
