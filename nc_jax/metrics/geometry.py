"""NC2: class means, or classifier rows, against the simplex equiangular tight frame."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from nc_jax.metrics import pairwise
from nc_jax.metrics.columns import Columns
from nc_jax.metrics.products import HIGHEST


def equinorm(rows: Array, present: Array, *, norm_ddof: int = 1) -> Array:
  """Spread of the norms, std_k ‖v_k‖ / mean_k ‖v_k‖; 0 at collapse, at most √C.

  Args:
    rows: [K, D] centred class means, or classifier rows.
    present: [K] bool, the C rows that count.
    norm_ddof: std divides by C − norm_ddof, or 0 where that is negative; 1 as in the original code.

  Returns: float []. nan if C < 2 or all rows are zero.

  References: Papyan, Han and Donoho 2020, arXiv 2008.08186, Fig. 2.
  """
  return variation(pairwise.unit_rows(rows)[1], present, norm_ddof)


def equiangular(rows: Array, present: Array, *, mesh: Mesh | None = None) -> Array:
  """Distance of the angles from the simplex, mean over i ≠ j of |cos(v_i, v_j) + 1/(C − 1)|.

  0 at collapse, at most C/(C − 1). The absolute value is essential: for centred rows of equal
  norm the signed mean cosine is −1/(C − 1) whatever their angles. Zero rows have cosine 0.

  Args:
    rows: [K, D] centred class means, or classifier rows.
    present: [K] bool, the C rows that count.
    mesh: devices to spread the tiles over.

  Returns: float []. nan if C < 2.

  References: Papyan, Han and Donoho 2020, arXiv 2008.08186, Fig. 4.
  """
  return pairwise.vector_statistics(rows, present, ("equiangular",), mesh=mesh)["equiangular"].mean


def angle_std(
  rows: Array, present: Array, *, pair_ddof: int = 0, mesh: Mesh | None = None
) -> Array:
  """Spread of the angles, std over i ≠ j of cos(v_i, v_j); 0 at collapse, at most 1.

  Args:
    rows: [K, D] centred class means, or classifier rows.
    present: [K] bool, the C rows that count.
    pair_ddof: the variance divides by the C(C − 1) ordered pairs minus pair_ddof.
    mesh: devices to spread the tiles over.

  Returns: float []. nan if C < 2.

  References: Papyan, Han and Donoho 2020, arXiv 2008.08186, Fig. 3.
  """
  names = ("one_minus_cosine",)
  apart = pairwise.vector_statistics(rows, present, names, mesh=mesh)["one_minus_cosine"]
  return root(pair_variance(apart, pair_ddof))


def etf_error(
  left: Array, right: Array, present: Array, *, mesh: Mesh | Columns | None = None
) -> Array:
  """Distance of a product from the simplex ETF, ‖L Rᵀ / ‖L Rᵀ‖_F − E‖_F; 0 at collapse.

      E = (I − 11ᵀ/C) / √(C − 1)

  With G = L Rᵀ = a E + (rest), a = ⟨G, E⟩, the rest orthogonal to E, it equals
  √2 ‖rest‖ / √(‖G‖ (‖G‖ + a)) for a > 0: the rest is summed element by element and nothing
  cancels near 0. For C ≥ 2D the distance cannot be near 0, and ‖G‖² = ⟨LᵀL, RᵀR⟩ is a [D, D]
  matter. At least √2 √(1 − √(D/(C − 1))) for D < C − 1.

  Args:
    left, right: [K, D]: both the centred class means or the classifier rows (at most √2), or
      the rows and the means (at most 2).
    present: [K] bool, the C rows that count.
    mesh: devices to spread the tiles over; `Columns` where left and right lie split over them.

  Returns: float []. nan if C < 2 or the product is zero.

  References: Zhu et al. 2021, arXiv 2105.02375 (rows, and rows times means); Kothapalli 2023,
    arXiv 2206.04041 (means).
  """
  return _etf_error(left, None if right is left else right, present, mesh)


@jax.jit(static_argnames="mesh")
def _etf_error(left: Array, right: Array | None, present: Array, mesh) -> Array:
  num_classes, dim = left.shape
  left = _unit_frobenius(jnp.where(present[:, None], left, 0))
  one = right is None  # whose Gram matrix serves twice
  right = left if one else _unit_frobenius(jnp.where(present[:, None], right, 0))
  classes = jnp.sum(present).astype(left.dtype)
  total = jnp.sum(left, axis=0) * jnp.sum(right, axis=0) / classes
  along = (jnp.sum(left * right) - jnp.sum(total)) / jnp.sqrt(classes - 1)

  def by_tiles():
    return pairwise.residual(left, right, present, along, mesh=mesh)

  def by_width():
    def gram(x):
      return mesh.gram(x) if isinstance(mesh, Columns) else jnp.matmul(x.T, x, precision=HIGHEST)

    first = gram(left)
    return jnp.sum(first * (first if one else gram(right))) - along**2

  if num_classes < 2 * dim:
    rest = by_tiles()
  else:
    rest = jax.lax.cond(classes >= 2 * dim, by_width, by_tiles)
  norm = root(along**2 + rest)
  near = root(2 * rest / (norm * (norm + jnp.where(along > 0, along, 0))))
  far = root(2 - 2 * jnp.where(along > 0, 0, along) / norm)
  return jnp.where(along > 0, near, far)


def measure(
  name: str,
  rows: Array,
  present: Array,
  pairs: dict[str, pairwise.Statistic],
  norm_ddof: int,
  pair_ddof: int,
  mesh: Mesh | Columns | None,
) -> dict[str, Array]:
  """NC2 of one set of vectors by key: name is "means" or "weights", pairs their statistics."""
  norms = pairwise.unit_rows(rows)[1]
  return {
    f"nc2/equinorm_{name}": variation(norms, present, norm_ddof),
    f"nc2/equiangular_{name}": pairs["equiangular"].mean,
    f"nc2/angle_std_{name}": root(pair_variance(pairs["one_minus_cosine"], pair_ddof)),
    f"nc2/etf_{name}": etf_error(rows, rows, present, mesh=mesh),
    f"norm/{name}": jnp.sum(jnp.where(present, norms, 0)) / jnp.sum(present),
  }


def energies(pairs: dict[str, pairwise.Statistic], pair_ddof: int = 0) -> dict[str, Array]:
  """Hyperspherical energies of the directions u of the centred class means, by key.

      log_energy   mean over i ≠ j of −log ‖u_i − u_j‖         −½ log(2C/(C−1)) at collapse
      riesz_energy mean over i ≠ j of sign(s) ‖u_i − u_j‖^(−s)     (2C/(C−1))^(−s/2) at collapse
      gnc2_var     variance of −log ‖u_i − u_j‖                 0 at collapse
      gnc2_cov     its std over |mean|                          0 at collapse

  gnc2_cov explodes where the typical distance is near 1; prefer the variance. inf (variance:
  nan) if two directions coincide to the last bit, or two means are zero; nan if C < 2.

  References: Liu, Yu, Weller and Schölkopf 2023, arXiv 2303.06484; Wu and Papyan 2024, arXiv
    2405.17767 (GNC2).
  """
  variance = pair_variance(pairs["log"], pair_ddof)
  return {
    "nc2/log_energy": pairs["log"].mean,
    "nc2/riesz_energy": pairs["riesz"].mean,
    "nc2/gnc2_var": variance,
    "nc2/gnc2_cov": root(variance) / jnp.abs(pairs["log"].mean),
  }


def pair_variance(statistic: pairwise.Statistic, pair_ddof: int) -> Array:
  """Variance over the ordered pairs with a ddof; ordered and unordered agree for ddof 0."""
  ordered = 2 * statistic.count
  return statistic.variance * ordered / jnp.maximum(ordered - pair_ddof, 0)


def variation(values: Array, present: Array, ddof: int) -> Array:
  """Standard deviation over |mean| of the present values; nan for fewer than two."""
  mean, variance = mean_and_variance(values, present, ddof)
  return root(variance) / jnp.abs(mean)


def mean_and_variance(values: Array, present: Array, ddof: int) -> tuple[Array, Array]:
  """Mean and variance of the present values; nan for fewer than two, as numpy.var if ddof ≥ C."""
  count = jnp.sum(present).astype(values.dtype)
  count = jnp.where(count > 1, count, jnp.nan)
  mean = jnp.sum(jnp.where(present, values, 0)) / count
  square = jnp.sum(jnp.where(present, values - mean, 0) ** 2)
  return mean, square / jnp.maximum(count - ddof, 0)


def root(x: Array) -> Array:
  """√x with gradient 0, not inf, at 0."""
  return jnp.where(x == 0, 0, jnp.sqrt(jnp.where(x == 0, 1, x)))


def _unit_frobenius(x: Array) -> Array:
  """x / ‖x‖_F; nan for zero."""
  return x / jnp.sqrt(jnp.sum(x**2))
