"""NC1: within-class covariance against between-class covariance."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from nc_jax.metrics import between as between_
from nc_jax.metrics import pairwise
from nc_jax.metrics.centring import Centred, centre, check_conventions, sample_weights
from nc_jax.metrics.moments import ClassMoments


def trace_within(moments: ClassMoments, within: str = "samples") -> Array:
  """tr(Σ_W), the mean squared distance to the own class mean; 0 at collapse.

  "samples": Σ_k s_k / N, every example weighs the same. "classes": (1/C) Σ_k s_k / n_k, every
  class does. Needs no scatter.

  Returns: float []. nan without examples.
  """
  check_conventions(within=within)
  if within == "classes":
    return jnp.sum(class_variances(moments)) / jnp.sum(moments.count > 0)
  return jnp.sum(moments.spread) / moments.examples


def trace_between(
  moments: ClassMoments, *, global_mean: str = "classes", between: str = "classes"
) -> Array:
  """tr(Σ_B) = Σ_k p_k ‖μ_k − μ_G‖², with p_k = 1/C ("classes") or n_k/N ("samples").

  Returns: float []. nan with fewer than two present classes.
  """
  centred = centre(moments, global_mean)
  weights = between_weights(moments, between)
  return _if_pairs(centred, jnp.sum(weights * jnp.sum(centred.means**2, axis=1)))


def trace_ratio(
  moments: ClassMoments,
  *,
  global_mean: str = "classes",
  within: str = "samples",
  between: str = "classes",
) -> Array:
  """NC1 as a ratio of traces, tr(Σ_W) / tr(Σ_B); 0 at collapse.

      Σ_W = scatter / N        Σ_B = Σ_k (μ_k − μ_G)(μ_k − μ_G)ᵀ / C

  μ_G is the mean of the C class means, not of the N examples; the two differ for unbalanced
  classes. Unchanged by rotating, shifting or scaling the features. Needs no scatter.

  Returns: float []. inf if all class means coincide, nan if the features do too, or C < 2.

  References: Hui, Belkin and Nakkiran 2022, arXiv 2202.08384; Tirer, Huang and Niles-Weed
    2023, arXiv 2210.16658.
  """
  return trace_within(moments, within) / trace_between(
    moments, global_mean=global_mean, between=between
  )


def class_variances(moments: ClassMoments) -> Array:
  """[K] v_k = s_k / n_k, mean squared distance to the class mean; 0 for an empty class."""
  return moments.spread / jnp.maximum(moments.count, 1)


def cdnv(moments: ClassMoments, *, mesh: Mesh | None = None) -> Array:
  """Class-distance normalised variance, averaged over pairs of classes; 0 at collapse.

      mean over i ≠ j of (v_i + v_j) / (2 ‖μ_i − μ_j‖²)        v_k = s_k / n_k, no Bessel

  Independent of the global mean. Unchanged by rotating, shifting or scaling the features.

  Args:
    moments: class moments, with or without scatter.
    mesh: devices to spread the tiles of class pairs over; None computes them where it runs.

  Returns: float []. inf if two class means coincide, nan if both also have no variance, or C < 2.

  References: Galanti, György and Hutter 2021, arXiv 2112.15121.
  """
  return pairwise.mean_statistics(moments, ("cdnv",), mesh=mesh)["cdnv"].mean


def pinv_ratio(
  moments: ClassMoments,
  *,
  global_mean: str = "classes",
  between: str = "classes",
  covariance: Array | None = None,
) -> Array:
  """NC1 of the original paper, tr(Σ_W Σ_B⁺) / C; 0 at collapse.

      M = U diag(σ) Vᵀ        Σ_B = MᵀM / C        C · 1/C cancels:  Σ_i v_iᵀ Σ_W v_i / σ_i²

  over the numerical rank of the centred means M, at most C − 1. The thin decomposition of M
  keeps mean directions that a dense pseudo-inverse of Σ_B, whose condition number is squared,
  loses silently; they dominate this number. The original code omits the 1/C. Unchanged by
  rotating, shifting or scaling the features.

  Args:
    moments: class moments.
    global_mean, between: see `centre` and `between_weights`.
    covariance: [D, D] Σ_W; None takes scatter / N.

  Returns: float []. nan if all class means coincide, or C < 2.

  Raises:
    ValueError: neither scatter nor covariance; `decide` has a form without either.

  References: Papyan, Han and Donoho 2020, arXiv 2008.08186.
  """
  return spectral_ratios(moments, covariance, global_mean, between).pinv


def vci(
  moments: ClassMoments,
  *,
  global_mean: str = "classes",
  between: str = "classes",
  covariance: Array | None = None,
) -> Array:
  """Variability collapse index, 1 − tr(Σ_T⁺ Σ_B) / rank(Σ_B); 0 at collapse, at most 1.

      Σ_T = Σ_W + Σ_B        = mean of 1 / (1 + k_i), k_i the nonzero eigenvalues of Σ_W⁺ Σ_B

  Mean directions in which no class varies contribute 0. Unchanged by any invertible linear map
  of the features, as long as it leaves rank(Σ_B) the same. In float32 a direction counts as
  without variance below about 1e-6 of what its units have, each on its own scale.

  Args: as `pinv_ratio`.

  Returns: float []. nan if all class means coincide, or C < 2.

  Raises:
    ValueError: neither scatter nor covariance.

  References: Xu and Liu 2023, arXiv 2306.03440.
  """
  return spectral_ratios(moments, covariance, global_mean, between).vci


@jax.jit(static_argnums=(2, 3))
def spectral_ratios(
  moments: ClassMoments, covariance: Array | None, global_mean: str, between: str
) -> between_.Ratios:
  """`pinv_ratio` and `vci` from one decomposition."""
  if covariance is None:
    if moments.scatter is None:
      raise ValueError(
        "nc1/pinv and nc1/vci need the [D, D] scatter; these moments were made with scatter=False"
      )
    covariance = moments.scatter / jnp.maximum(moments.examples, 1)
  if moments.columns is not None:
    covariance = moments.columns.gather(covariance)
  means, classes, scale = _weighted_means(moments, global_mean, between)
  return between_.ratios(means, covariance, classes, scale)


@jax.jit(static_argnames=("global_mean", "between"))
def between_rank(
  moments: ClassMoments, *, global_mean: str = "classes", between: str = "classes"
) -> Array:
  """Numerical rank of Σ_B as a float []; C − 1 for class means in general position."""
  means, classes, scale = _weighted_means(moments, global_mean, between)
  return jnp.sum(between_.spectrum(means, classes, scale).keep).astype(means.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Whitener:
  """Q [D, R] with Q Qᵀ = Σ_B⁺, and which Σ_B that is; a pytree.

  Attributes:
    matrix: [D, R], R = min(K, D); directions beyond the numerical rank are zero columns.
    conventions: (global_mean, between) of Σ_B, as in `measure`.
  """

  matrix: Array
  conventions: tuple[str, str] = dataclasses.field(metadata={"static": True})


@jax.jit(static_argnames=("global_mean", "between"))
def whitener(
  moments: ClassMoments, *, global_mean: str = "classes", between: str = "classes"
) -> Whitener:
  """The projection of the streaming form of `pinv_ratio`.

      tr(Σ_W Σ_B⁺) = (1/N) Σ_i ‖Qᵀ (h_i − μ_{y_i})‖²        no [D, D] array at all

  Of split moments its matrix is split too, by rows.
  """
  matrix = between_.spectrum(*_weighted_means(moments, global_mean, between)).whitener
  if (columns := moments.columns) is not None:
    matrix = columns.lay(matrix, columns.rows)
  return Whitener(matrix, (global_mean, between))


@jax.jit(static_argnames="within")
def streamed_pinv_ratio(moments: ClassMoments, decisions, within: str = "samples") -> Array:
  """`pinv_ratio` from the [K] sums of ‖Qᵀ(h − μ_y)‖² of `decisions`, without a scatter.

  Unlike the pooled scatter these sums are per class, so that within="classes" is available.
  """
  check_conventions(within=within)
  centred = centre(moments)
  if within == "classes":
    trace = jnp.sum(decisions.whitened / jnp.maximum(moments.count, 1)) / centred.classes
  else:
    trace = jnp.sum(decisions.whitened) / decisions.placed
  return jnp.where(between_rank(moments) > 0, trace / centred.classes, jnp.nan)


def between_weights(moments: ClassMoments, between: str) -> Array:
  """[K] weights of the classes in Σ_B: 1/C, or n_k/N; 0 for an empty class."""
  check_conventions(between=between)
  if between == "samples":
    return sample_weights(moments)
  present = (moments.count > 0).astype(moments.mean.dtype)
  return present / jnp.maximum(jnp.sum(present), 1)


@jax.jit(static_argnames=("global_mean", "within", "between"))
def measure(
  moments: ClassMoments,
  decisions=None,
  covariance: Array | None = None,
  *,
  global_mean: str = "classes",
  within: str = "samples",
  between: str = "classes",
) -> dict[str, Array]:
  """NC1 by key, without nc1/cdnv, whose pairs are swept together with those of NC2."""
  options = {"global_mean": global_mean, "between": between}
  values = {
    "nc1/trace_ratio": trace_ratio(moments, within=within, **options),
    "trace/within": trace_within(moments, within),
    "trace/between": trace_between(moments, **options),
    "classes/present": jnp.sum(moments.count > 0).astype(moments.mean.dtype),
  }
  # The pooled scatter weighs by example; another weighing must come from another pass.
  pooled = moments.scatter is not None and within == "samples"
  if pooled or covariance is not None:
    ratios = spectral_ratios(moments, covariance, global_mean, between)
    return values | {"nc1/pinv": ratios.pinv, "nc1/vci": ratios.vci, "rank/between": ratios.rank}
  if moments.decomposable:
    values["rank/between"] = between_rank(moments, **options)
  if decisions is not None and decisions.whitened is not None:
    if decisions.whitened.shape != moments.count.shape:
      raise ValueError(
        f"the decisions are about K = {decisions.whitened.shape[0]} classes, the moments hold "
        f"K = {moments.num_classes}"
      )
    if decisions.conventions != (global_mean, between):
      raise ValueError(
        f"global_mean, between = {global_mean!r}, {between!r}, but the decisions are about "
        f"{', '.join(map(repr, decisions.conventions))}: give decide the projection "
        "whitener(moments, global_mean=..., between=...)"
      )
    values["nc1/pinv"] = streamed_pinv_ratio(moments, decisions, within)
  return values


def nc1(
  moments: ClassMoments, decisions=None, covariance=None, *, mesh: Mesh | None = None, **conventions
) -> dict[str, Array]:
  """nc1/* by key, and nothing else; arguments as for `measure`."""
  values = measure(moments, decisions, covariance, **conventions)
  values["nc1/cdnv"] = cdnv(moments, mesh=mesh)
  return {key: value for key, value in values.items() if key.startswith("nc1/")}


def _weighted_means(
  moments: ClassMoments, global_mean: str, between: str
) -> tuple[Array, Array, Array]:
  """√p_k m_k [K, D], C, and the within-class standard deviation: arguments of `spectrum`.

  Of split moments, in place of the means a [min(K, D), D] triangle with the same Σ_B, whole.
  """
  centred = centre(moments, global_mean)
  means = jnp.sqrt(between_weights(moments, between))[:, None] * centred.means
  if moments.columns is not None:
    means = moments.columns.triangle(means)
  total = jnp.maximum(moments.examples, 1)
  scale = jax.lax.stop_gradient(jnp.sqrt(jnp.sum(moments.spread) / total))
  return means, centred.classes, scale


def _if_pairs(centred: Centred, value: Array) -> Array:
  return jnp.where(centred.classes >= 2, value, jnp.nan)
