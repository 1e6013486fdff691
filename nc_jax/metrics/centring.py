"""Class means about the global mean: where NC1 to NC4 begin."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from nc_jax.metrics.moments import ClassMoments, Head
from nc_jax.metrics.products import HIGHEST

CONVENTIONS = {
  "global_mean": ("classes", "samples"),
  "within": ("samples", "classes"),
  "between": ("classes", "samples"),
}  # the default first


class Centred(NamedTuple):
  """The class means of C present classes, seen from the global mean.

  Attributes:
    means: [K, D] class mean minus global mean; 0 for an empty class.
    present: [K] bool, classes with at least one example.
    classes: [] number C of present classes.
    base: [D], a feature vector near the means; global mean = base + offset.
    offset: [D], global mean minus base.
  """

  means: Array
  present: Array
  classes: Array
  base: Array
  offset: Array


@jax.jit(static_argnames="global_mean")
def centre(moments: ClassMoments, global_mean: str = "classes") -> Centred:
  """Class means about the global mean, without ever forming either.

      d_k = (r_k − r_0) + (mean_k − mean_0)     m_k = d_k − average of d

  r_k + mean_k would round to the precision of the uncentred means. Instead all classes are
  measured from one of them, class 0 here, the one whose reference is closest to the average
  reference: an offset common to all features cancels, and equal means are exactly equal.

  Args:
    moments: class moments.
    global_mean: "classes" averages the class means; "samples" the examples, which weighs class
      k by n_k / N. Equal for balanced classes.
  """
  check_conventions(global_mean=global_mean)
  dtype = moments.mean.dtype
  present = moments.count > 0
  classes = jnp.sum(present).astype(dtype)
  equal = present / jnp.maximum(classes, 1)
  reference = lax.stop_gradient(moments.reference)
  average = jnp.matmul(equal, jnp.where(present[:, None], reference, 0), precision=HIGHEST)
  distance = jnp.sum((reference - average) ** 2, axis=1)
  zero = jnp.argmin(jnp.where(present, distance, jnp.inf))
  base, mean = reference[zero], moments.mean[zero]

  about = (moments.reference - base) + (moments.mean - mean)
  about = jnp.where(present[:, None], about, 0)
  weights = equal if global_mean == "classes" else sample_weights(moments)
  average = jnp.matmul(weights, about, precision=HIGHEST)
  means = jnp.where(present[:, None], about - average, 0)
  return Centred(means, present, classes, base, mean + average)


def logits_at_centre(centred: Centred, head: Head) -> Array:
  """[K] W μ_G + b, what the head says of the global mean; a head without bias has b = 0."""
  parts = (centred.base, centred.offset)
  logits = sum(jnp.matmul(head.weight, part, precision=HIGHEST) for part in parts)
  return logits if head.bias is None else logits + head.bias


def sample_weights(moments: ClassMoments) -> Array:
  """[K] share n_k / N of the examples in each class."""
  count = moments.count.astype(moments.mean.dtype)
  return count / jnp.maximum(jnp.sum(count), 1)


def check_conventions(**chosen: str):
  """ValueError for a value that is none of CONVENTIONS[name]."""
  for name, value in chosen.items():
    if value not in CONVENTIONS[name]:
      raise ValueError(f"{name} must be one of {', '.join(CONVENTIONS[name])}; got {value!r}")
