"""The spectrum of the class means, and tr(Σ_W Σ_B⁺) and VCI through it, with their derivatives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_solve, solve_triangular

from nc_jax.metrics.decompositions import rounding, thin_svd
from nc_jax.metrics.products import HIGHEST


class Ratios(NamedTuple):
  """tr(Σ_W Σ_B⁺) / C, 1 − tr(Σ_T⁺ Σ_B) / r, and the numerical rank r of Σ_B; each float []."""

  pinv: Array
  vci: Array
  rank: Array


class Spectrum(NamedTuple):
  """Thin decomposition of the weighted means A [K, D], Σ_B = AᵀA; R = min(K, D).

  Attributes:
    values: [R] singular values, descending.
    vectors: [D, R] right singular vectors.
    scaled: [D, R] vectors · values = Aᵀ left singular vectors: every row is right to its own
      precision, however small the means are in one unit, and 0 where they are 0.
    keep: [R] bool, the numerical rank.
    whitener: [D, R] vectors / values, 0 where not kept; its outer product is Σ_B⁺.
  """

  values: Array
  vectors: Array
  scaled: Array
  keep: Array
  whitener: Array


def spectrum(means: Array, classes: Array, scale: Array) -> Spectrum:
  """Decomposes the weighted centred means, keeping what rises above their rounding.

      σ_i > max(C, D) ε max(σ_1, s)        and at most C − 1 directions

  The catalogue (3.3) puts the r.m.s. of the uncentred means for s, whose rounding a centred
  mean inherits. Ours are sums of differences from reference features and never were uncentred:
  what rounds is the position of a mean among its own examples, hence s, the within-class
  standard deviation. At most C − 1, because centred means are linearly dependent whichever
  average of them is the centre.

  Args:
    means: [K, D] centred means times the square root of their weights; 0 for an empty class.
    classes: [] C.
    scale: [] root mean squared distance to the own class mean.
  """
  if means.shape[0] > means.shape[1]:
    means = jnp.linalg.qr(means, mode="r")  # same Σ_B, a [D, D] problem
  left, values, rows = thin_svd(means)
  epsilon = jnp.finfo(values.dtype).eps * jnp.maximum(classes, rows.shape[1])
  above = values > epsilon * jnp.maximum(values[0], scale)
  keep = above & (jnp.arange(values.size) < classes - 1)
  whitener = rows.T * jnp.where(keep, 1 / jnp.where(keep, values, 1), 0)
  return Spectrum(values, rows.T, _dot(means.T, left), keep, whitener)


@jax.custom_jvp
def ratios(means: Array, within: Array, classes: Array, scale: Array) -> Ratios:
  """NC1 through the spectrum of the means.

  The derivative is written out because that of an SVD is nan where singular values coincide,
  which for the simplex ETF they all do; that of the ratios exists.

  Args:
    means: [K, D] weighted centred means, as for `spectrum`.
    within: [D, D] Σ_W.
    classes: [] C.
    scale: [] root mean squared distance to the own class mean.
  """
  between = spectrum(means, classes, scale)
  rank = jnp.sum(between.keep).astype(within.dtype)
  pinv = jnp.sum(between.whitener * _dot(within, between.whitener)) / classes
  some, vci = rank > 0, _vci(between, within, rank)
  return Ratios(jnp.where(some, pinv, jnp.nan), jnp.where(some, vci, jnp.nan), rank)


@ratios.defjvp
def _ratios_jvp(primals, tangents):
  means, within, classes, scale = primals
  d_means, d_within, _, _ = tangents
  between = spectrum(means, classes, scale)
  out = ratios(*primals)
  q = between.whitener
  kept = between.vectors * between.keep
  left = _dot(means, q)  # U

  # tr(Σ_W G) with G = Q Qᵀ = (AᵀA)⁺, rank fixed.
  wq = _dot(within, q)
  inner = _dot(q.T, wq)
  by_means = _dot(left, _dot(inner, q.T))
  outside = wq - _dot(kept, _dot(kept.T, wq))  # (I − VVᵀ) Σ_W Q, a direction that M may enter
  by_means = by_means - _dot(left * jnp.sum(q**2, axis=0), outside.T)
  d_pinv = (jnp.sum(_dot(d_within, q) * q) - 2 * jnp.sum(by_means * d_means)) / classes

  # r (1 − VCI) = tr(F Σ_B), F = Σ_T⁺:  r dVCI = tr(F Σ_B F dΣ_W) − 2 ⟨A F Σ_W F, dA⟩
  # In own units too, as if their sizes were constants: VCI does not depend on these.
  own = _in_own_units(between, within)
  d_means, d_within = d_means * own.scale.T, own.scale * d_within * own.scale.T
  schur = _schur(own)
  inverse, reach = schur.inverse, schur.reach
  values = schur.values[:, None]
  twice = _dot(inverse, values**2 * inverse)
  mixed = values * _dot(inverse, _dot(schur.complement, inverse))
  by_means = _dot(_dot(left, schur.turn), _dot(mixed, reach.T))
  d_vci = jnp.sum(_dot(d_within, reach) * _dot(reach, twice)) - 2 * jnp.sum(by_means * d_means)
  d_vci = d_vci / jnp.where(out.rank > 0, out.rank, 1)
  return out, Ratios(d_pinv, d_vci, jnp.zeros_like(out.rank))


class _OwnUnits(NamedTuple):
  """Σ_W and the kept means B, BBᵀ = Σ_B, with every unit of the features on its own scale.

  VCI is the same after any invertible map of the features. Rounding is not: units of a trained
  network lie many orders of magnitude apart, and the small ones count like any other.

  Attributes:
    scale: [D, 1] 1 / within-class standard deviation of a unit; where nothing varies, 1 / largest
      mean, or 0 where the means are 0 too.
    within: [D, D] the scaled Σ_W; 1 on the diagonal for a unit of scale 0, which is no part of VCI.
    means: [D, R] the scaled B, with 0 for columns beyond the rank.
    rank: [] r.
  """

  scale: Array
  within: Array
  means: Array
  rank: Array


def _in_own_units(between: Spectrum, within: Array) -> _OwnUnits:
  means = jnp.where(between.keep, between.scaled, 0)
  variance = jnp.diag(within)
  varies = variance > jnp.finfo(within.dtype).tiny
  deviation = jnp.sqrt(jnp.where(varies, variance, 1))
  size = jnp.where(varies, deviation, jnp.max(jnp.abs(means), axis=1))
  scale = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)[:, None]
  within = scale * within * scale.T + jnp.diag(jnp.where(size > 0, 0.0, 1.0))
  return _OwnUnits(scale, within, scale * means, jnp.sum(between.keep))


def _vci(between: Spectrum, within: Array, rank: Array) -> Array:
  """Mean over the r kept directions of 1 / (1 + k_i), k_i the nonzero eigenvalues of Σ_W⁺ Σ_B.

  With Σ_W = L Lᵀ and A = L⁻¹ B, the k_i are the eigenvalues of AᵀA, and their sum is the trace of
  (I + AᵀA)⁻¹, taken from the triangle of [I; A] = Q R with columns of norm 1. Every step keeps
  small variances to their own precision. A singular Σ_W has no L: then by `_schur`.
  """
  own = _in_own_units(between, within)
  lower = jnp.linalg.cholesky(own.within)
  # Rounding leaves some ε where there should be 0; nan compares false.
  regular = jnp.all(jnp.diag(lower) ** 2 > 10 * jnp.finfo(within.dtype).eps)

  def by_factor():
    identity = jnp.eye(own.means.shape[1], dtype=within.dtype)
    reached = solve_triangular(lower, own.means, lower=True)
    stacked = jnp.concatenate([identity, reached])
    size = jnp.sqrt(jnp.sum(stacked**2, axis=0))
    triangle = jnp.linalg.qr(stacked / size, mode="r")
    inverse = solve_triangular(triangle, identity)
    return jnp.sum(jnp.sum(inverse**2, axis=1) * between.keep / size**2)

  def by_complement():
    schur = _schur(own)
    # Rounding may leave −ε where nothing varies in the span of the means.
    return jnp.clip(jnp.sum(schur.inverse * schur.complement), 0, rank)

  return jax.lax.cond(regular, by_factor, by_complement) / rank


class _Schur(NamedTuple):
  """Σ_W seen from the span of the means B = V diag(σ) Tᵀ.

  Attributes:
    values, turn: σ [R] descending, 0 beyond the rank, and T [R, R].
    complement: [R, R] S = W₁₁ − W₁₂ W₂₂⁺ W₂₁, 0 outside the numerical rank.
    inverse: [R, R] (S + diag(σ²))⁻¹.
    reach: [D, R] Y = V − V⊥ W₂₂⁺ W₂₁, with Σ_T⁺ V = Y (S + diag(σ²))⁻¹.
  """

  values: Array
  turn: Array
  complement: Array
  inverse: Array
  reach: Array


def _schur(own: _OwnUnits) -> _Schur:
  """The Schur complement of Σ_W on the span of the means, 1 the span and 2 its complement.

  The catalogue (3.4) takes eigenvalues k of Σ_W⁻¹ Σ_B. Near collapse VCI is the sum of their
  inverses, dominated by the smallest k, which rounding relative to the largest destroys; and
  Σ_W is often singular. The complement S has the inverse spectrum, S ~ Σ/k, needs W₂₂ only,
  and gives Σ_T⁺ on the span of the means exactly, singular Σ_W or not.
  """
  dim, width = own.means.shape
  turn, values, rows = thin_svd(own.means.T)
  keep = jnp.arange(width) < own.rank
  basis = vectors = rows.T
  if width < dim:
    basis = jnp.linalg.qr(basis, mode="complete")[0]
    basis = jnp.concatenate([vectors, basis[:, width:]], axis=1)
  inside = jnp.zeros(dim, bool).at[:width].set(keep)
  rotated = _dot(basis.T, _dot(own.within, basis))
  rotated = (rotated + rotated.T) / 2

  outside = ~inside[:, None] & ~inside
  largest = jnp.maximum(jnp.max(jnp.diag(rotated)), jnp.finfo(rotated.dtype).tiny)
  rest = jnp.where(outside, rotated, 0) + jnp.diag(jnp.where(inside, largest, 0))
  cross = jnp.where(~inside[:, None] & keep, rotated[:, :width], 0)
  solved = _solve_semidefinite(rest, cross, largest)

  both = keep[:, None] & keep
  complement = jnp.where(both, rotated[:width, :width], 0) - _dot(cross.T, solved)
  complement = (complement + complement.T) / 2

  square = jnp.where(keep, values**2, 1)
  size = jnp.sqrt(jnp.maximum(jnp.diag(complement), 0) + square)
  balanced = (complement + jnp.diag(square)) / (size[:, None] * size)
  inverse = jnp.linalg.inv(balanced) / (size[:, None] * size)
  inverse = jnp.where(both, inverse, 0)
  reach = vectors * keep - _dot(basis, solved)
  return _Schur(jnp.where(keep, values, 0), turn, complement, inverse, reach)


def _solve_semidefinite(matrix: Array, right: Array, largest: Array) -> Array:
  """matrix⁺ right: Cholesky of a regular matrix, eigenvectors above rounding of a singular one.

  Both of the matrix with ones on its diagonal: its variances span orders of magnitude. What lies
  below 4 ε of the largest is rounding, and would pass for a direction if scaled up to 1.
  """
  epsilon, diagonal = jnp.finfo(matrix.dtype).eps, jnp.diag(matrix)
  positive = diagonal > 4 * epsilon * largest
  scale = jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, diagonal, 1)), 0)[:, None]
  unit = scale * matrix * scale.T + jnp.diag(jnp.where(positive, 0.0, 1.0))
  lower = jnp.linalg.cholesky(unit)

  def by_eigenvectors():
    values, vectors = jnp.linalg.eigh(unit)
    inverse = jnp.where(values > rounding(values), 1 / values, 0)
    return _dot(vectors, inverse[:, None] * _dot(vectors.T, scale * right))

  def by_cholesky():
    return cho_solve((lower, True), scale * right)

  regular = jnp.all(jnp.diag(lower) ** 2 > 10 * epsilon)  # nan compares false
  return scale * jax.lax.cond(regular, by_cholesky, by_eigenvectors)


def _dot(a: Array, b: Array) -> Array:
  return jnp.matmul(a, b, precision=HIGHEST)
