"""Test collapse: do test features converge to the means of the train features?"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from nc_jax.metrics import inputs, variability
from nc_jax.metrics.accumulation import within_covariance
from nc_jax.metrics.catalogue import METRICS
from nc_jax.metrics.centring import check_conventions
from nc_jax.metrics.columns import mesh_beyond
from nc_jax.metrics.decisions import Decisions, decide, nearest_class
from nc_jax.metrics.moments import ClassMoments, head_of
from nc_jax.metrics.sharding import sent_once


def collapse_about(
  decisions: Decisions,
  train_moments: ClassMoments,
  test_moments: ClassMoments,
  *,
  global_mean: str = "classes",
  between: str = "classes",
) -> dict[str, Array]:
  """Strong and weak collapse of test features about train means, from streamed pieces.

      strong/second_moment  (1/N) Σ ‖h − μ_y‖² / B          to the mean of the own class
      weak/second_moment    (1/N) Σ min_k ‖h − μ_k‖² / B    to some mean
      shift/means           Σ_k (n_k/N) ‖μ'_k − μ_k‖² / B   what moved, the rest spread out

  h, y, n, N, μ' of the test set, μ and B = tr(Σ_B) of the train set. All 0 at strong collapse;
  weak ≤ strong, and strong is shift plus the spread about the test means. Test examples whose
  class the train set lacks are left out of these three and count as errors in test/ncc_error.

  Args:
    decisions: decide(test features, test labels, train_moments, head).
    train_moments: moments of the train set.
    test_moments: moments of the test set; no scatter needed.
    global_mean, between: the conventions of B.

  Returns: {key: float []}; test/ncc_mismatch and test/classifier_error only if `decisions` were
    made with a head. inf if all train means coincide.

  References: Hui, Belkin and Nakkiran 2022, arXiv 2202.08384.
  """
  inputs.check_moments(train_moments, "train_moments")
  inputs.check_moments(test_moments, "test_moments")
  if train_moments.mean.shape != test_moments.mean.shape:
    raise ValueError(
      "train_moments and test_moments must have equal [K, D]; got "
      f"{list(train_moments.mean.shape)} and {list(test_moments.mean.shape)}"
    )
  return _about(decisions, train_moments, test_moments, global_mean, between)


@jax.jit(static_argnums=(3, 4))
def _about(decisions, train_moments, test_moments, global_mean, between) -> dict[str, Array]:
  scale = variability.trace_between(train_moments, global_mean=global_mean, between=between)
  both = (train_moments.count > 0) & (test_moments.count > 0)
  shift = (test_moments.reference - train_moments.reference) + (
    test_moments.mean - train_moments.mean
  )
  distance = jnp.sum(jnp.where(both[:, None], shift, 0) ** 2, axis=1)
  moved = jnp.sum(test_moments.count * distance)
  placed = decisions.placed * scale
  count = decisions.number
  values = {
    "strong/second_moment": decisions.own_distance / placed,
    "weak/second_moment": decisions.nearest_distance / placed,
    "shift/means": moved / placed,
    "test/ncc_error": decisions.ncc_wrong / count,
  }
  if decisions.mismatch is not None:
    values["test/ncc_mismatch"] = decisions.mismatch / count
    values["test/classifier_error"] = decisions.classifier_wrong / count
  return values


def test_collapse(
  train_features,
  train_labels,
  test_features,
  test_labels,
  *,
  num_classes: int,
  weight=None,
  bias=None,
  train_mask=None,
  test_mask=None,
  scatter: bool = True,
  global_mean: str = "classes",
  within: str = "samples",
  between: str = "classes",
  mesh: Mesh | None = None,
) -> dict[str, float]:
  """Everything about test collapse in one call.

  NC1 three times: `train/nc1/*`; `strong/nc1/*` of the test set with its labels and its own
  means; `weak/nc1/*` of the test set with the nearest train mean for a label, where train
  classes that attract no test example are left out. Then `train/second_moment` and
  `collapse_about`.

  Args:
    train_features, test_features: [N, D] numbers from NumPy, JAX or torch.
    train_labels, test_labels: [N] integers in [0, num_classes).
    num_classes: K.
    weight: [K, D] classifier rows; adds test/ncc_mismatch and test/classifier_error.
    bias: [K], with a weight only.
    train_mask, test_mask: [N] bool, True for the examples that count.
    scatter: False for features too wide for a [D, D] array: no VCI.
    global_mean, within, between: as for `measure`.
    mesh: as for `report`.

  Returns: {key: float} in the order of METRICS.

  Raises: as `accumulate` and `decide`; ValueError also for a bias without a weight.
  """
  check_conventions(global_mean=global_mean, within=within, between=between)
  inputs.check_size("num_classes", num_classes)
  train = (train_features, train_labels, train_mask)
  train = inputs.check_examples(*train, num_classes, prefix="train_")
  train_features, train_labels, train_mask = train
  dim = train_features.shape[1]
  test = (test_features, test_labels, test_mask)
  test = inputs.check_examples(*test, num_classes, dim, prefix="test_")
  test_features, test_labels, test_mask = test
  head = head_of(weight, bias, num_classes, dim)
  centring = {"global_mean": global_mean, "between": between}
  conventions = {"centring": centring, "within": within, "mesh": mesh}
  over = mesh_beyond(mesh, num_classes, train_features, scatter)
  if over is None:
    train_features, test_features = sent_once(train_features), sent_once(test_features)

  def moments_of(features, labels, mask):
    options = {"mask": mask, "scatter": scatter, "mesh": over}
    return ClassMoments.of(features, labels, num_classes, **options)

  train = (train_features, train_labels, train_mask)
  test = (test_features, test_labels, test_mask)
  train_moments, test_moments = moments_of(*train), moments_of(*test)
  decisions = decide(*test[:2], train_moments, head, test_mask)
  weak = (test_features, nearest_class(test_features, train_moments), test_mask)

  values = {}
  for name, data, moments in (
    ("train", train, train_moments),
    ("strong", test, test_moments),
    ("weak", weak, moments_of(*weak)),
  ):
    family = _nc1(data, moments, **conventions)
    values |= {f"{name}/{key}": value for key, value in family.items()}
  scale = variability.trace_between(train_moments, **centring)
  values["train/second_moment"] = variability.trace_within(train_moments) / scale
  values |= collapse_about(decisions, train_moments, test_moments, **centring)
  values = jax.device_get(values)
  return {key: float(values[key]) for key in METRICS if key in values}


def _nc1(
  data, moments: ClassMoments, centring: dict, within: str, mesh: Mesh | None
) -> dict[str, Array]:
  """nc1/* of one data set, with whatever second pass its conventions ask for."""
  features, labels, mask = data
  covariance = decisions = None
  if moments.scatter is None and moments.decomposable:
    projection = variability.whitener(moments, **centring)
    decisions = decide(features, labels, moments, None, mask, projection=projection)
  elif moments.scatter is not None and within == "classes":
    covariance = within_covariance(features, labels, moments, mask)
  return variability.nc1(moments, decisions, covariance, mesh=mesh, within=within, **centring)
