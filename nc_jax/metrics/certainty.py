"""Balls about the class means in which both decisions are certain, so that no score is needed."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from nc_jax.metrics import pairwise
from nc_jax.metrics.centring import centre, logits_at_centre
from nc_jax.metrics.columns import Columns
from nc_jax.metrics.moments import ClassMoments, Head
from nc_jax.metrics.products import HIGHEST
from nc_jax.metrics.sharding import chunk_rows, replaced_where, varying

_SLACK = 1e-5  # of the largest term of a score: what rounding may take from a margin


def pays(examples: int, num_classes: int, dim: int) -> bool:
  """Whether the K² scores of the class means, and compiling them, cost little beside N K."""
  return examples >= 4 * max(num_classes, chunk_rows(dim))


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
  norms = _norms(means)
  if nearest is None:
    nearest = pairwise.mean_statistics(moments, ("nearest",))["nearest"]
  apart = nearest - _SLACK * jnp.max(norms) ** 2
  radius = jnp.sqrt(jnp.maximum(apart, 0)) / 2
  if head is not None:
    bias = logits_at_centre(centred, head)
    lengths = _norms(head.weight - jnp.mean(head.weight, axis=0))
    slope = lengths + jnp.max(lengths)  # at least every ‖w_k − w_j‖
    largest = norms * jnp.max(_norms(head.weight)) + jnp.max(jnp.abs(bias))  # at least every score
    margin = _margins(means, head.weight, bias, columns) - _SLACK * largest
    radius = jnp.minimum(radius, jnp.maximum(margin, 0) / slope)
  return 0.99 * jnp.where(present, radius, 0)


def _margins(means: Array, weight: Array, bias: Array, columns: Columns | None) -> Array:
  """[K] min_{j≠k} (w_k − w_j)·μ_k + b_k − b_j, tile by tile."""
  everyone = jnp.ones(len(bias), bool)
  own = jnp.sum(means * weight, axis=1) + bias
  left = {"present": everyone, "means": means, "own": own}
  right = {"present": everyone, "weight": weight, "bias": bias}

  def kernel(a, b, pair, same, summed):
    del pair
    scores = jnp.matmul(a["means"], b["weight"].T, precision=HIGHEST) + b["bias"]
    return summed({"margin": jnp.where(same, jnp.inf, a["own"][:, None] - scores)})

  options = {"ordered": True, "least": ("margin",), "mesh": columns}
  return pairwise.sweep(kernel, left, right, **options)["margin"]


def _norms(rows: Array) -> Array:
  return jnp.sqrt(jnp.sum(rows**2, axis=1))


def where_needed(choices, features: Array, labels: Array, certain: Array, rows: int):
  """`choices(features)` where a decision is not certain, the label where it is.

  Args:
    choices: [B, D] -> [B, Q] int32, and [B] bool, whether a choice is in doubt.
    features: [B, D].
    labels: [B] int32, what a certain decision decides for, without a doubt.
    certain: [B] bool.
    rows: examples scored at a time.
  """
  features = lax.stop_gradient(features)
  like, _ = jax.eval_shape(choices, features)
  labelled = jnp.broadcast_to(labels[:, None], like.shape), jnp.zeros_like(certain)
  labelled = varying(labelled, features)

  def of_few():
    return replaced_where(~certain, lambda places: choices(features[places]), labelled, rows)

  few = 2 * jnp.sum(~certain) <= certain.size
  return lax.cond(few, of_few, lambda: choices(features))
