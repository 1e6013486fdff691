"""The spectrum of the class means, and tr(Σ_W Σ_B⁺) and VCI through it, with their derivatives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_solve, solve_triangular

from nc_jax.metrics.decompositions import thin_svd
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
  schur = _schur(between, within)
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
  inverse = schur.inverse
  square = jnp.where(between.keep, between.values, 0) ** 2
  reach = schur.reach
  twice = _dot(inverse, square[:, None] * inverse)
  scaled = jnp.where(between.keep, between.values, 0)[:, None]
  mixed = scaled * _dot(inverse, _dot(schur.complement, inverse))
  by_means = _dot(left, _dot(mixed, reach.T))
  d_vci = jnp.sum(_dot(d_within, reach) * _dot(reach, twice)) - 2 * jnp.sum(by_means * d_means)
  d_vci = d_vci / jnp.where(out.rank > 0, out.rank, 1)
  return out, Ratios(d_pinv, d_vci, jnp.zeros_like(out.rank))


def _vci(between: Spectrum, within: Array, rank: Array) -> Array:
  """Mean over the r kept directions of 1 / (1 + k_i), k_i the nonzero eigenvalues of Σ_W⁺ Σ_B.

  With Σ_W = L Lᵀ and A = L⁻¹ V diag(σ), the k_i are the eigenvalues of AᵀA, and their sum is the
  trace of (I + AᵀA)⁻¹, taken from the triangle of [I; A] = Q R with columns of norm 1. Every step
  keeps small variances to their own precision. A singular Σ_W has no L: then by `_schur`.
  """
  # Of a unit that never fires not even rounding varies: what varies counts, on whatever scale.
  least = (4 * jnp.finfo(within.dtype).eps) ** 2 * jnp.max(jnp.diag(within))
  factor = _factor(within, least)
  means = jnp.where(between.keep, between.scaled, 0)
  # A direction without variance that the means enter must count as 0.
  lost = jnp.any(jnp.where(factor.scale > 0, 0, means) != 0)

  def by_factor():
    identity = jnp.eye(between.values.size, dtype=within.dtype)
    reached = solve_triangular(factor.lower, factor.scale * means, lower=True)
    stacked = jnp.concatenate([identity, reached])
    size = jnp.sqrt(jnp.sum(stacked**2, axis=0))
    triangle = jnp.linalg.qr(stacked / size, mode="r")
    inverse = solve_triangular(triangle, identity)
    return jnp.sum(jnp.sum(inverse**2, axis=1) * between.keep / size**2)

  def by_complement():
    schur = _schur(between, within)
    # Rounding may leave −ε where nothing varies in the span of the means.
    return jnp.clip(jnp.sum(schur.inverse * schur.complement), 0, rank)

  return jax.lax.cond(factor.regular & ~lost, by_factor, by_complement) / rank


class _Schur(NamedTuple):
  """Σ_W seen from the span of the means.

  Attributes:
    complement: [R, R] S = W₁₁ − W₁₂ W₂₂⁺ W₂₁, 0 outside the numerical rank.
    inverse: [R, R] (S + diag(σ²))⁻¹.
    reach: [D, R] Y = V − V⊥ W₂₂⁺ W₂₁, with Σ_T⁺ V = Y (S + diag(σ²))⁻¹.
  """

  complement: Array
  inverse: Array
  reach: Array


def _schur(between: Spectrum, within: Array) -> _Schur:
  """The Schur complement of Σ_W on the span of the means, 1 the span and 2 its complement.

  The catalogue (3.4) takes eigenvalues k of Σ_W⁻¹ Σ_B. Near collapse VCI is the sum of their
  inverses, dominated by the smallest k, which rounding relative to the largest destroys; and
  Σ_W is often singular. The complement S has the inverse spectrum, S ~ Σ/k, needs W₂₂ only,
  and gives Σ_T⁺ on the span of the means exactly, singular Σ_W or not.
  """
  dim, width = between.vectors.shape
  basis = between.vectors
  if width < dim:
    basis = jnp.linalg.qr(basis, mode="complete")[0]
    basis = jnp.concatenate([between.vectors, basis[:, width:]], axis=1)
  inside = jnp.zeros(dim, bool).at[:width].set(between.keep)
  rotated = _dot(basis.T, _dot(within, basis))
  rotated = (rotated + rotated.T) / 2

  outside = ~inside[:, None] & ~inside
  largest = jnp.maximum(jnp.max(jnp.diag(rotated)), jnp.finfo(rotated.dtype).tiny)
  rest = jnp.where(outside, rotated, 0) + jnp.diag(jnp.where(inside, largest, 0))
  cross = jnp.where(~inside[:, None] & between.keep, rotated[:, :width], 0)
  solved = _solve_semidefinite(rest, cross, largest)

  both = between.keep[:, None] & between.keep
  complement = jnp.where(both, rotated[:width, :width], 0) - _dot(cross.T, solved)
  complement = (complement + complement.T) / 2

  square = jnp.where(between.keep, between.values**2, 1)
  size = jnp.sqrt(jnp.maximum(jnp.diag(complement), 0) + square)
  balanced = (complement + jnp.diag(square)) / (size[:, None] * size)
  inverse = jnp.linalg.inv(balanced) / (size[:, None] * size)
  inverse = jnp.where(both, inverse, 0)
  reach = between.vectors * between.keep - _dot(basis, solved)
  return _Schur(complement, inverse, reach)


class _Factor(NamedTuple):
  """Cholesky of a covariance with unit diagonal: diag(scale) Σ diag(scale) = lower lowerᵀ.

  The covariance of trained features spans six orders of magnitude, most of which are scale: what
  is left is far from singular, and directions of tiny variance, which VCI counts like any other,
  are not mistaken for rounding.

  Attributes:
    unit: [D, D] the scaled covariance, with 1 for a unit without variance.
    lower: [D, D]; nan where Σ is not even semidefinite.
    scale: [D, 1] 1 / standard deviation; 0 for a unit without variance.
    regular: [] bool, the scaled covariance is not singular.
  """

  unit: Array
  lower: Array
  scale: Array
  regular: Array


def _factor(matrix: Array, least: Array) -> _Factor:
  """Variances up to `least` are rounding, and count as none: scaled up to 1 they would pass for
  directions."""
  dim, epsilon = matrix.shape[0], jnp.finfo(matrix.dtype).eps
  diagonal = jnp.diag(matrix)
  positive = diagonal > least
  scale = jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, diagonal, 1)), 0)[:, None]
  unit = scale * matrix * scale.T + jnp.diag(jnp.where(positive, 0.0, 1.0))
  lower = jnp.linalg.cholesky(unit)
  pivots = jnp.diag(lower) ** 2  # rounding leaves some ε √D where there should be 0
  regular = jnp.all(pivots > 10 * epsilon * dim**0.5)  # nan compares false
  return _Factor(unit, lower, scale, regular)


def _solve_semidefinite(matrix: Array, right: Array, largest: Array) -> Array:
  """matrix⁺ right: Cholesky of a regular matrix, eigenvectors above a cut of a singular one.

  The matrix has been rotated: rounding of its `largest` variance is in all others.
  """
  unit, lower, scale, regular = _factor(matrix, 4 * jnp.finfo(matrix.dtype).eps * largest)

  def by_eigenvectors():
    values, vectors = jnp.linalg.eigh(unit)
    cut = matrix.shape[0] * jnp.finfo(matrix.dtype).eps * values[-1]
    inverse = jnp.where(values > cut, 1 / values, 0)
    return _dot(vectors, inverse[:, None] * _dot(vectors.T, scale * right))

  def by_cholesky():
    return cho_solve((lower, True), scale * right)

  return scale * jax.lax.cond(regular, by_cholesky, by_eigenvectors)


def _dot(a: Array, b: Array) -> Array:
  return jnp.matmul(a, b, precision=HIGHEST)
