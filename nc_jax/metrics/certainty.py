"""Balls about the class means in which both decisions are certain, so that no score is needed."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from nc_jax.metrics.centring import centre, logits_at_centre
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
  means, present = centred.means, centred.present
  num_classes = means.shape[0]
  square = jnp.sum(means**2, axis=1)
  if head is not None:
    bias = logits_at_centre(centred, head)
    about = head.weight - jnp.mean(head.weight, axis=0)
    length = jnp.sqrt(jnp.sum(about**2, axis=1))
    slope = length + jnp.max(length)  # at least every ‖w_k − w_j‖
  width = min(_TILE, num_classes)

  def of_tile(start):
    own = start + jnp.arange(width)
    cut = lambda x: lax.dynamic_slice_in_dim(x, start, width)
    other = own[:, None] != jnp.arange(num_classes)
    dots = jnp.matmul(cut(means), means.T, precision=HIGHEST)
    apart = cut(square)[:, None] + square - 2 * dots - _SLACK * jnp.max(square)
    apart = jnp.min(jnp.where(other & present, apart, jnp.inf), axis=1)
    radius = jnp.sqrt(jnp.maximum(apart, 0)) / 2
    if head is not None:
      scores = jnp.matmul(cut(means), head.weight.T, precision=HIGHEST) + bias
      rival = jnp.max(jnp.where(other, scores, -jnp.inf), axis=1)
      margin = jnp.take_along_axis(scores, own[:, None], axis=1)[:, 0] - rival
      margin -= _SLACK * jnp.max(jnp.abs(scores), axis=1)
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
