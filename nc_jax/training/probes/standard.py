"""Features to mean 0 and standard deviation 1, as every probe sees them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from nc_jax.metrics.products import HIGHEST
from nc_jax.training.probes.devices import ROWS, WHOLE, largest, over_examples, total
from nc_jax.training.probes.examples import examples

CONSTANT = 16  # a deviation of so many rounding errors of the mean is no variation


class Standard(NamedTuple):
  """z = ((h − centre) − shift) / scale, of the training features.

  Attributes:
    centre: [D] the mean of each feature, rounded.
    shift: [D] what that rounding left: the mean of h − centre. Beside a large offset one float32
      cannot hold the mean to the precision of the differences.
    scale: [D] standard deviation, ddof 0; 1 for a feature that does not vary.
    varies: [D] bool.
  """

  centre: Array
  shift: Array
  scale: Array
  varies: Array

  def apply(self, features: Array) -> Array:
    """[N, D] standardised features."""
    features = features.astype(self.centre.dtype)
    return ((features - self.centre) - self.shift) / self.scale


def standardise(features, mask=None) -> Standard:
  """The standardisation of the training features, scikit-learn's StandardScaler.

  Two passes, the second about the mean of the first: a large common offset cancels before
  anything is squared. A feature whose standard deviation is below 16 ε |mean|, ε that of
  float32, is rounding around a constant; it is only centred. scikit-learn's bound, n ε |mean|,
  grows with n, as the error of a plain sum does; in float32 it would silence real features.

  Args:
    features: [N, D], on one device or spread over examples by a NamedSharding.
    mask: [N] bool, False for padding.
  """
  features, _, mask, split = examples(features, None, mask, "features")
  return _standardise(features, mask, split)


@jax.jit(static_argnums=2)
def _standardise(features, mask, split: tuple[Mesh, tuple[str, ...]] | None) -> Standard:
  return over_examples(fit, split, (ROWS, ROWS), WHOLE)(features, mask)


def fit(features: Array, mask: Array, axes: tuple[str, ...]) -> Standard:
  """`standardise` of this device's rows, [N, D] and [N], agreed on by all."""
  weights = mask.astype(features.dtype)
  count = jnp.maximum(total(jnp.sum(weights), axes), 1)

  def mean(rows):  # a product with ones is a faster and better sum than one over rows
    return total(jnp.matmul(weights, rows, precision=HIGHEST), axes) / count

  rows = jnp.where(mask[:, None], features, 0)  # padding may hold anything, nan too
  centre = mean(rows)
  about = jnp.where(mask[:, None], rows - centre, 0)
  shift = mean(about)
  about = jnp.where(mask[:, None], about - shift, 0)
  size = largest(jnp.max(jnp.abs(about), axis=0, initial=0), axes)
  unit = jnp.where(size > 0, size, 1)  # the squares of tiny features would be 0
  scale = unit * jnp.sqrt(mean((about / unit) ** 2))
  bound = CONSTANT * jnp.finfo(scale.dtype).eps * jnp.abs(centre)
  varies = scale > bound
  return Standard(centre, shift, jnp.where(varies, scale, 1), varies)


def standard_rows(standard: Standard, features: Array, mask: Array) -> Array:
  """[N, D] standardised training features; 0 for padding, and where a feature does not vary."""
  return jnp.where(mask[:, None] & standard.varies, standard.apply(features), 0)
