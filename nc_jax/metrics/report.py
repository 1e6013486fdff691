"""Every metric at once: measure(moments) for programs, report(features) for people."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from nc_jax.metrics import certainty, duality, geometry, inputs, pairwise, spectrum, variability
from nc_jax.metrics.accumulation import within_covariance as covariance_of
from nc_jax.metrics.catalogue import METRICS
from nc_jax.metrics.centring import CONVENTIONS, centre, check_conventions
from nc_jax.metrics.columns import mesh_beyond
from nc_jax.metrics.decisions import Decisions, decide
from nc_jax.metrics.moments import ClassMoments, Head, fitting_head, head_of
from nc_jax.metrics.sharding import sent_once

_OPTIONS = {*CONVENTIONS, "norm_ddof", "pair_ddof", "riesz_s", "mesh"}  # of `report`
PAIRS = ("equiangular", "one_minus_cosine", "log", "riesz", "cdnv")  # of a pair of class means


def measure(
  moments: ClassMoments,
  head: Head | None = None,
  decisions: Decisions | None = None,
  *,
  global_mean: str = "classes",
  within: str = "samples",
  between: str = "classes",
  norm_ddof: int = 1,
  pair_ddof: int = 0,
  riesz_s: float = 1.0,
  ranks: bool = False,
  within_covariance: Array | None = None,
  pairs: dict | None = None,
  mesh: Mesh | None = None,
) -> dict[str, Array]:
  """All metrics that the arguments allow, in the order of METRICS (a jit around it sorts them).

  Compiled once per shape and set of options; pure, so it may be jitted, mapped and (apart from
  the ranks) differentiated: any value can be a loss. Of nc1/vci second derivatives are nan where
  K ≤ D.

  Args:
    moments: class moments of the whole data set.
    head: adds NC3, NC0 and NC2 of the classifier rows.
    decisions: `decide` about these moments; adds NC4 and the feature norm, and nc1/pinv for
      moments without scatter.
    global_mean: "classes", the mean of the class means, or "samples", that of the examples.
    within: "samples" weighs Σ_W by example, "classes" by class. The pooled scatter knows only
      the former: with "classes", nc1/pinv and nc1/vci need `within_covariance`.
    between: "classes" weighs Σ_B by class, "samples" by n_k / N.
    norm_ddof: std over classes divides by C − norm_ddof.
    pair_ddof: variance over the C(C − 1) class pairs divides by that minus pair_ddof.
    riesz_s: exponent of nc2/riesz_energy; 0 is the log kernel.
    ranks: adds rank/effective to rank/nuclear; costs D³.
    within_covariance: [D, D] Σ_W in place of scatter / N.
    pairs: `pairwise.mean_statistics(moments, PAIRS)` with these options, if there are any yet.
    mesh: devices to spread the class pairs over, for tens of thousands of classes. Moments that
      are split over devices (see `ClassMoments.empty`) are measured by these, whatever it says;
      where D is too large for a [min(K, D), D] array on one of them, rank/between and nc1/pinv
      are left out (WIDE.md).

  Returns: {key: float32 []}, float64 under jax_enable_x64.

  Raises:
    ValueError, TypeError: an unknown option, a head whose shapes do not fit, or decisions about
      another Σ_B than global_mean and between say, where nc1/pinv is to come from these.
  """
  inputs.check_moments(moments)
  check_conventions(global_mean=global_mean, within=within, between=between)
  given, head = head, fitting_head(head, moments)
  mesh = moments.columns or mesh
  # Two programs, as a compiler's memory grows with the largest.
  values = variability.measure(
    moments, decisions, within_covariance, global_mean=global_mean, within=within, between=between
  )
  options = (global_mean, norm_ddof, pair_ddof, float(riesz_s), ranks, mesh)
  values |= _measure_rest(moments, head, decisions, pairs, options)
  values = inputs.finished(values, given, within_covariance)
  return {key: values[key] for key in METRICS if key in values}  # jit sorts keys by name


@jax.jit(static_argnums=4)
def _measure_rest(moments, head, decisions, pairs, options) -> dict[str, Array]:
  """All but the NC1 of `variability.measure`."""
  global_mean, norm_ddof, pair_ddof, riesz_s, ranks, mesh = options
  centred = centre(moments, global_mean)
  if pairs is None:
    pairs = pairwise.mean_statistics(
      moments, PAIRS, global_mean=global_mean, riesz_s=riesz_s, mesh=mesh
    )
  values = {
    "nc1/cdnv": pairs["cdnv"].mean,
    "norm/global_mean": jnp.linalg.norm(centred.base + centred.offset),
  }
  ddof = (norm_ddof, pair_ddof)
  values |= geometry.measure("means", centred.means, centred.present, pairs, *ddof, mesh)
  values |= geometry.energies(pairs, pair_ddof)
  if head is not None:
    rows = pairwise.vector_statistics(head.weight, centred.present, PAIRS[:2], mesh=mesh)
    values |= geometry.measure("weights", head.weight, centred.present, rows, *ddof, mesh)
    values |= duality.measure(centred, head, norm_ddof, mesh)
  if decisions is not None:
    values |= decisions.shares()
  if ranks:
    values |= spectrum.ranks(moments)
  return {key: value.astype(moments.mean.dtype) for key, value in values.items()}


def report(
  features,
  labels,
  *,
  num_classes: int,
  weight=None,
  bias=None,
  mask=None,
  scatter: bool = True,
  ranks: bool = True,
  **options,
) -> dict[str, float]:
  """Every metric of one data set: two passes over the features, one transfer.

  Args:
    features: [N, D] numbers from NumPy, JAX or torch; may lie spread over devices.
    labels: [N] integers in [0, num_classes).
    num_classes: K; classes without examples are left out of every metric.
    weight: [K, D] classifier rows; adds NC2 of the rows, NC3, NC0 and the classifier's NC4.
    bias: [K], with a weight only.
    mask: [N] bool, True for the examples that count.
    scatter: False for features too wide for a [D, D] array: no nc1/vci and no ranks, nc1/pinv
      by projection in the second pass.
    ranks: include the ranks, which cost D³.
    **options: as for `measure`. With a mesh of several devices, moments of more than 1 GiB
      (2 K D + D² numbers, `columns.WHOLE_BYTES`) are split over them by columns; D must divide.

  Returns: {key: float} in the order of METRICS.

  Raises: as `accumulate`, `decide` and `measure`; ValueError also for a bias without a weight.
  """
  if unknown := sorted(options.keys() - _OPTIONS):
    raise TypeError(f"report takes no option {unknown[0]}; it takes {', '.join(sorted(_OPTIONS))}")
  check_conventions(**{key: options[key] for key in CONVENTIONS if key in options})
  inputs.check_size("num_classes", num_classes)
  features, labels, mask = inputs.check_examples(features, labels, mask, num_classes)
  head = head_of(weight, bias, num_classes, features.shape[1])
  mesh = mesh_beyond(options.get("mesh"), num_classes, features, scatter)
  features = features if mesh else sent_once(features)
  moments = ClassMoments.of(features, labels, num_classes, mask=mask, scatter=scatter, mesh=mesh)
  centring = {key: options[key] for key in ("global_mean", "between") if key in options}
  project = not scatter and moments.decomposable
  projection = variability.whitener(moments, **centring) if project else None
  head = None if head is None else head.check(num_classes, moments.dim, moments.columns)
  pairs = radii = None
  if num_classes > pairwise.TILE and certainty.pays(len(features), num_classes, moments.dim):
    # One sweep tells measure all it asks of the pairs of classes, and decide the nearest rivals.
    sweeping = {key: options[key] for key in ("global_mean", "mesh") if key in options}
    sweeping["riesz_s"] = float(options.get("riesz_s", 1))
    pairs = pairwise.mean_statistics(moments, (*PAIRS, "nearest"), **sweeping)
    radii = certainty.radii(moments, head, pairs.pop("nearest"))
  about = {"projection": projection, "radii": radii}
  decisions = decide(features, labels, moments, head, mask, **about)
  if scatter and options.get("within") == "classes":
    options["within_covariance"] = covariance_of(features, labels, moments, mask)
  values = measure(moments, head, decisions, ranks=ranks and scatter, pairs=pairs, **options)
  values = jax.device_get(values)
  return {key: float(values[key]) for key in METRICS if key in values}
