"""Singular values that are right to rounding, on every kind of device; and what rounding is."""

import jax.numpy as jnp
from jax import Array, lax
from jax.lax.linalg import SvdAlgorithm


def thin_svd(matrix: Array) -> tuple[Array, Array, Array]:
  """U [M, R], σ [R] descending and Vᵀ [R, N] of a matrix [M, N], R = min(M, N).

  σ is right to about ε σ_1. Of matrices up to 1,024 wide, JAX's choice on a GPU is Jacobi's method,
  which stops at 1e-5 σ_1: more than all that is left within the classes near collapse. There we
  ask for the QR algorithm, which takes twice as long.
  """
  return _on_any_device(matrix, compute_uv=True)


def singular_values(matrix: Array) -> Array:
  """σ [R] of `thin_svd` alone."""
  return _on_any_device(matrix, compute_uv=False)


def rounding(eigenvalues: Array) -> Array:
  """[] below which eigenvalues [D], ascending, of a semidefinite matrix count as 0.

  Such a matrix has no negative ones: the most negative says how large rounding is. Twice of it, or
  of ε times the largest.
  """
  epsilon = jnp.finfo(eigenvalues.dtype).eps
  return 2 * jnp.maximum(epsilon * eigenvalues[-1], -eigenvalues[0])


def _on_any_device(matrix: Array, compute_uv: bool):
  def by(algorithm):
    return lambda x: lax.linalg.svd(
      x, full_matrices=False, compute_uv=compute_uv, algorithm=algorithm
    )

  gpu = by(SvdAlgorithm.QR)
  matrix = jnp.asarray(matrix)
  return lax.platform_dependent(matrix, cuda=gpu, rocm=gpu, default=by(SvdAlgorithm.DEFAULT))
