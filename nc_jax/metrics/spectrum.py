"""Ranks of the features: of their singular values about the mean example."""

import jax
import jax.numpy as jnp
from jax import Array

from nc_jax.metrics import decompositions
from nc_jax.metrics.centring import centre, sample_weights
from nc_jax.metrics.moments import ClassMoments
from nc_jax.metrics.products import gram


def singular_values(moments: ClassMoments) -> Array:
  """[D] singular values of the features with the sample mean subtracted, descending.

      σ_i² = eigenvalues of  scatter + Σ_k n_k (μ_k − h̄)(μ_k − h̄)ᵀ,      h̄ the mean example

  Taken from the stacked factors of the two terms, not from their sum, so that near collapse
  the small within-class values are not lost under the large between-class ones. Eigenvalues of the
  scatter that are `decompositions.rounding` count as 0: in float32 singular values below 5e-4 to
  1e-3 of the largest within the classes.

  Raises:
    ValueError: the moments carry no scatter.
  """
  if moments.scatter is None:
    raise ValueError("ranks need the [D, D] scatter; these moments were made with scatter=False")
  scatter, columns = moments.scatter, moments.columns
  values, vectors = jnp.linalg.eigh(scatter if columns is None else columns.gather(scatter))
  real = values > decompositions.rounding(values)
  within = jnp.sqrt(jnp.where(real, values, 0))[:, None] * vectors.T
  weights = jnp.sqrt(sample_weights(moments) * moments.examples)[:, None]
  between = weights * centre(moments, "samples").means
  if columns is not None:
    between = columns.triangle(between)
  elif moments.num_classes > moments.dim:
    between = jnp.linalg.qr(between, mode="r")
  stacked = jnp.concatenate([between, within])
  return decompositions.singular_values(stacked)


def effective_rank(values: Array) -> Array:
  """exp(−Σ p_i log p_i), p_i = σ_i / Σσ; C − 1 at balanced ETF collapse.

  References: Roy and Vetterli 2007, EUSIPCO.
  """
  p = values / jnp.sum(values)
  return jnp.exp(-jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1))))


def stable_rank(values: Array) -> Array:
  """Σ σ_i² / σ_1²; C − 1 at balanced ETF collapse."""
  return jnp.sum((values / values[0]) ** 2)


def numerical_rank(values: Array) -> Array:
  """Number of σ_i² above 1e-3 σ_1², the eigenvalues of the covariance; C − 1 at collapse.

  References: Masarczyk et al. 2023, arXiv 2305.19753.
  """
  some = jnp.where(values[0] > 0, 1, jnp.nan)
  return some * jnp.sum(values**2 > 1e-3 * values[0] ** 2)


def numerical_rank_of_covariance(moments: ClassMoments) -> Array:
  """`numerical_rank` of moments with a whole scatter, from eigenvalues of the total scatter.

  `singular_values` avoids that sum for the sake of small ones; what exceeds 1e-3 of the largest is
  right in it too, by one decomposition in place of two.
  """
  weights = jnp.sqrt(sample_weights(moments) * moments.examples)[:, None]
  between = weights * centre(moments, "samples").means
  values = jnp.linalg.eigvalsh(moments.scatter + gram(between))
  some = jnp.where(values[-1] > 0, 1, jnp.nan)
  return some * jnp.sum(values > 1e-3 * values[-1])


def nuclear_rank(values: Array) -> Array:
  """(Σ σ_i)² / Σ σ_i²; C − 1 at balanced ETF collapse.

  The two papers take it per class and of uncentred features, the first without the square.

  References: Zhou et al. 2022, arXiv 2203.01238; Markou et al. 2024.
  """
  values = values / values[0]  # squares would overflow first
  return jnp.sum(values) ** 2 / jnp.sum(values**2)


@jax.jit
def ranks(moments: ClassMoments) -> dict[str, Array]:
  """The four ranks by key; float [] each, nan if all features coincide.

  Cost D³, and not differentiable where singular values coincide.
  """
  values = singular_values(moments)
  return {
    "rank/effective": effective_rank(values),
    "rank/stable": stable_rank(values),
    "rank/numerical": numerical_rank(values),
    "rank/nuclear": nuclear_rank(values),
  }
