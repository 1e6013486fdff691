"""Singular values to rounding, and on GPUs by an algorithm that gives them so."""

import jax
import numpy as np
import pytest

from nc_jax.metrics import decompositions

EPSILON = np.finfo(np.float32).eps


def near_collapse(rows, columns):
  """A matrix whose singular values fall from 1 to 1e-5."""
  rng = np.random.default_rng(0)
  matrix = rng.standard_normal((rows, columns))
  u, _, vt = np.linalg.svd(matrix, full_matrices=False)
  return (u * np.geomspace(1, 1e-5, min(rows, columns))) @ vt


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (1, 5)])
def test_against_float64(shape):
  matrix = near_collapse(*shape)
  expected = np.linalg.svd(matrix, compute_uv=False)
  u, values, vt = decompositions.thin_svd(matrix.astype(np.float32))
  alone = jax.jit(decompositions.singular_values)(matrix.astype(np.float32))
  assert u.shape == (shape[0], min(shape)) and vt.shape == (min(shape), shape[1])
  np.testing.assert_allclose(values, expected, rtol=0, atol=8 * EPSILON)
  np.testing.assert_allclose(alone, expected, rtol=0, atol=8 * EPSILON)
  u, values, vt = map(np.asarray, (u, values, vt))  # JAX's product here may round to TF32
  np.testing.assert_allclose((u * values) @ vt, matrix, atol=8 * EPSILON)


@pytest.mark.parametrize("of", [decompositions.thin_svd, decompositions.singular_values])
def test_a_gpu_is_not_left_to_jacobis_method(of):
  """Seen on an H100: 1.3e-5 of the largest by JAX's default, 1.1e-7 by the QR algorithm."""
  lowered = jax.jit(of).trace(np.ones((40, 30), np.float32)).lower(lowering_platforms=("cuda",))
  assert "cusolver_gesvd_ffi" in lowered.as_text()
  assert "gesvdj" not in lowered.as_text()
