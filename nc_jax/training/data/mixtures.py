"""Gaussian classes whose truth is known: the means, the collapse of the inputs, the best error."""

import math

import numpy as np

from nc_jax.errors import UserError
from nc_jax.training.data.sets import Dataset, Split


def gaussian_mixture(
  *,
  seed: int,
  train_size: int | None = None,
  test_size: int | None = None,
  classes: int = 10,
  dim: int = 32,
  separation: float = 4.0,
  super_classes: int = 1,
  super_separation: float = 12.0,
) -> Dataset:
  """x = μ_k + N(0, I_D) with the means of `class_means`; classes alike in number.

  Images are float32 [N, 1, 1, D] and the network sees them as they are (scale 1, shift 0): the
  program takes any dtype, and bytes would blur the truth by their rounding. Class k of
  `super_classes` groups is in group k // (K / groups): label_map = ("groups_of_N",) merges them,
  and the imbalance of `Changes` makes them unequal. Defaults: 100 examples per class and split.
  """
  means = class_means(seed, classes, dim, separation, super_classes, super_separation)
  rng = np.random.default_rng([seed, 0x6A055])
  splits = []
  for size in (train_size, test_size):
    labels = np.arange(100 * classes if size is None else size) % classes
    labels = rng.permutation(labels).astype(np.int32)
    with np.errstate(over="ignore"):
      points = (means[labels] + rng.standard_normal((len(labels), dim))).astype(np.float32)
    if not np.isfinite(points).all():
      raise UserError(
        f"config.data.separation = {separation} and super_separation = {super_separation} are too "
        "large for float32."
      )
    splits.append(Split(points[:, None, None], labels))
  members = classes // super_classes
  names = (
    f"group{k // members}_class{k % members}" if super_classes > 1 else f"class{k}"
    for k in range(classes)
  )
  return Dataset(*splits, tuple(names), np.ones(1, np.float32), np.zeros(1, np.float32))


def class_means(
  seed: int,
  classes: int,
  dim: int,
  separation: float,
  super_classes: int = 1,
  super_separation: float = 0.0,
) -> np.ndarray:
  """The true means [K, D], float64, centred at 0, in a random rotation drawn from the seed.

  With G groups of m = K / G classes, μ_k = A_g + a_j: the A_g are a regular simplex of edge
  `super_separation`, and within each group the a_j are one of edge `separation`, in dimensions
  of the group's own. G = 1 is the plain case, all pairs of means `separation` apart. Classes of
  different groups are √(super_separation² + separation² (m - 1) / m) apart.

  With unit within-class deviation the inputs themselves have tr(Σ_W) / tr(Σ_B) = D / Σ_k ‖μ_k‖²/K,

      ‖μ_k‖² = super_separation² (G - 1) / 2G + separation² (m - 1) / 2m.

  Raises UserError where K - 1 dimensions, which the two levels need, are not there.
  """
  if classes < 2:
    raise UserError(f"config.data.classes = {classes}, but a mixture has at least 2.")
  if super_classes < 1 or classes % super_classes:
    raise UserError(
      f"config.data.super_classes = {super_classes} does not divide the {classes} classes."
    )
  if dim < classes - 1:
    raise UserError(
      f"config.data.dim = {dim}: the equidistant means of {classes} classes need {classes - 1}."
    )
  members = classes // super_classes
  tops = np.repeat(_simplex(super_classes, super_separation), members, axis=0)
  within = np.kron(np.eye(super_classes), _simplex(members, separation))
  means = np.concatenate([tops, within], axis=1)  # [K, K - 1]
  rng = np.random.default_rng([seed, 0x63A25])
  rotation, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
  return means @ rotation[: classes - 1]


def _simplex(points: int, edge: float) -> np.ndarray:
  """A regular simplex, centred: [n, n - 1] with all distances `edge`."""
  centred = np.eye(points) - 1 / points
  basis, _ = np.linalg.qr(centred[:, : points - 1])  # orthonormal, of the plane that sums to 0
  return edge / math.sqrt(2) * centred @ basis


def bayes_error(separation: float) -> float:
  """The least error that two equally frequent classes allow, Φ(-separation / 2)."""
  return math.erfc(separation / math.sqrt(8)) / 2
