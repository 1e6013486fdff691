"""Balls about the class means in which both decisions are certain, so that no score is needed."""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

from nc_jax.metrics import pairwise
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
def radii(moments: ClassMoments, head: Head | None, nearest: Array | None = None) -> Array:
  """[K] r_k: a feature with ‖h − μ_k‖ < r_k is nearest to μ_k, and the head decides for k.

      2 r_k ≤ min_{j≠k} ‖μ_k − μ_j‖                                      the triangle inequality
      r_k max_j ‖w_k − w_j‖ ≤ min_{j≠k} (w_k − w_j)·μ_k + b_k − b_j       a linear function's slope

  Only present classes rival for the nearest mean, all for the head. Less 1 % for rounding; 0 for
  an empty class. Near collapse nearly every example lies in the ball of its class.

  Args:
    moments, head: as for `decide`.
    nearest: [K] the least ‖μ_k − μ_j‖², where `pairwise.mean_statistics` has been asked anyway.
  """
  centred = centre(moments)
  means, present, columns = centred.means, centred.present, moments.columns
  if nearest is None:
    nearest = pairwise.mean_statistics(moments, ("nearest",))["nearest"]
  apart = nearest - _SLACK * jnp.max(jnp.sum(means**2, axis=1))
  radius = jnp.sqrt(jnp.maximum(apart, 0)) / 2
  if head is not None:
    about = head.weight - jnp.mean(head.weight, axis=0)
    length = jnp.sqrt(jnp.sum(about**2, axis=1))
    slope = length + jnp.max(length)  # at least every ‖w_k − w_j‖
    arrays = means, head.weight, logits_at_centre(centred, head)
    if columns is None:
      margin = _margins(*arrays)
    else:
      local = columns.map(
        functools.partial(_margins, columns=columns),
        (columns.wide, columns.rows, PartitionSpec()),
        PartitionSpec(),
      )
      margin = local(means, columns.by_classes(head.weight), arrays[2])
    radius = jnp.minimum(radius, jnp.maximum(margin, 0) / slope)
  return 0.99 * jnp.where(present, radius, 0)


def _margins(means: Array, weight: Array, bias: Array, columns: Columns | None = None) -> Array:
  """[K] by how much the score of its own class is the best at a class mean, at least.

  Tile by tile of class means [K, D] against all rows [K, D]; of split moments, against the rows
  that one device has whole, and then among devices.
  """
  num_classes, width = len(bias), min(_TILE, len(bias))
  index = jnp.arange(len(weight))
  if columns is not None:
    index += columns.index() * len(weight)
  exists = index < num_classes
  bias = bias.at[index].get(mode="fill", fill_value=0)
  most, total = (lambda x: x,) * 2 if columns is None else (columns.most, columns.total)

  def of_tile(start):
    own = (start + jnp.arange(width))[:, None] == index
    tile = lax.dynamic_slice_in_dim(means, start, width)
    tile = tile if columns is None else columns.whole(tile)
    scores = jnp.matmul(tile, weight.T, precision=HIGHEST) + bias
    margin = total(jnp.sum(jnp.where(own, scores, 0), axis=1))
    margin -= most(jnp.max(jnp.where(~own & exists, scores, -jnp.inf), axis=1))
    return margin - _SLACK * most(jnp.max(jnp.abs(scores), axis=1))

  tiles = -(-num_classes // width)
  # The last tile starts early rather than run over; its first classes are seen twice.
  starts = jnp.minimum(jnp.arange(tiles) * width, num_classes - width)
  places = starts[:, None] + jnp.arange(width)
  return jnp.zeros_like(bias, shape=num_classes).at[places].set(lax.map(of_tile, starts))


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
