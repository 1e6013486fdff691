"""Where in a network collapse happens, and when: measures on curves over layers and epochs.

Layers are counted from 1, the first after the input. Plain NumPy on plain numbers: any library's
curves will do.
"""

from typing import NamedTuple

import numpy as np


def ncc_depth(errors, tolerance: float = 0.01) -> float:
  """Effective depth: the smallest layer from which on the nearest class mean separates the classes.

      min { ℓ : ε_j ≤ tolerance for all j ≥ ℓ }

  ε_ℓ is the error of the nearest-class-mean rule on the features of layer ℓ, on the train set
  (`nc4/ncc_error`). "From which on" is ours: the source takes the first layer that separates,
  and a later one seldom mixes again what was separated.

  Args:
    errors: [layers] in network order. nan separates nothing.
    tolerance: the share of errors that still counts as separated.

  Returns: the layer's number, from 1; nan if the last layer does not separate.

  References: Galanti, Galanti and Ben-Shaul 2022, arXiv 2202.09028.
  """
  errors = _layers("errors", errors)
  mixing = np.flatnonzero(~(errors <= tolerance))
  depth = mixing[-1] + 2 if mixing.size else 1
  return float(depth) if depth <= len(errors) else np.nan


def tunnel_start(accuracies, share: float = 0.95) -> float:
  """The first layer at which a linear probe is nearly as good as at the last: the tunnel begins.

      min { ℓ : a_ℓ ≥ share · a_L }

  From here on the layers compress what is already linearly separable.

  Args:
    accuracies: [layers] test accuracy of the same probe on the features of each layer, in
      network order.
    share: of the last layer's accuracy.

  Returns: the layer's number, from 1; nan if the last layer's accuracy is nan.

  References: Masarczyk et al. 2023, arXiv 2305.19753.
  """
  accuracies = _layers("accuracies", accuracies)
  reached = np.flatnonzero(accuracies >= share * accuracies[-1])
  return float(reached[0] + 1) if reached.size else np.nan


def first_below(values, epochs, threshold: float) -> np.ndarray:
  """The first observed epoch at which each layer is below a threshold.

  It need not stay there. A layer that is below at the first observation may have been before.

  Args:
    values: [epochs, layers], such as V = Tr(Σ_W) / Tr(Σ_B) of the train set. nan is not below.
    epochs: [epochs] when they were observed, increasing.
    threshold: values < threshold are below.

  Returns: float [layers]; nan where a layer never is.
  """
  values, epochs = np.asarray(values, float), np.asarray(epochs, float)
  if values.ndim != 2 or epochs.shape != values.shape[:1]:
    raise ValueError(
      "values must have shape [epochs, layers] and epochs [epochs]; "
      f"got {list(values.shape)} and {list(epochs.shape)}"
    )
  if not len(epochs):
    return np.full(values.shape[1], np.nan)
  below = values < threshold
  return np.where(below.any(axis=0), epochs[below.argmax(axis=0)], np.nan)


def cascade_score(first_epochs) -> float:
  """Rank correlation (Spearman) of depth with the epoch at which a layer collapses.

  −1 where later layers collapse strictly first and the earlier ones follow one by one, the
  cascade; 1 where collapse spreads from the input; near 0 without order. Layers that never
  collapse count as later than all that do; layers that collapse together share the mean rank.

  Args:
    first_epochs: [layers] in network order, as from `first_below`; nan or inf is never.

  Returns: a number in [−1, 1]; nan for fewer than two layers, and where all collapse at the
    same epoch or none does.

  References: Hui, Belkin and Nakkiran 2022, arXiv 2202.08384, for the notion; the score is ours.
  """
  first_epochs = _layers("first_epochs", first_epochs)
  first_epochs = np.where(np.isnan(first_epochs), np.inf, first_epochs)
  return rank_correlation(np.arange(len(first_epochs)), first_epochs)


class LogLine(NamedTuple):
  """The least-squares line through log(values) over the layers."""

  r_squared: float  # share of the variance of log(values) that the line explains; 1 if exact
  slope: float  # of the natural logarithm: a layer multiplies the value by exp(slope)


def log_linearity(values) -> LogLine:
  """How nearly a quantity changes by the same factor from layer to layer.

      log V_ℓ ≈ intercept + slope · ℓ        R² = 1 − Σ residual² / Σ (log V_ℓ − mean)²

  The law of equi-separation says that each layer reduces Tr(Σ_W Σ_B⁺) by the same factor
  exp(slope). Other measures of collapse, such as V = Tr(Σ_W) / Tr(Σ_B), may be held beside it.

  Args:
    values: [layers] in network order. What has no finite logarithm (0, inf, nan) is left out.

  Returns: (R², slope), both nan with fewer than three layers left, through two of which any
    line goes; R² nan if all values are equal.

  References: He and Su 2022, arXiv 2210.17020.
  """
  values = _layers("values", values)
  usable = np.isfinite(values) & (values > 0)
  if usable.sum() < 3:
    return LogLine(np.nan, np.nan)
  layers, logs = np.flatnonzero(usable).astype(float), np.log(values[usable])
  layers, logs = layers - layers.mean(), logs - logs.mean()
  slope = layers @ logs / (layers @ layers)
  residual, total = np.sum((logs - slope * layers) ** 2), np.sum(logs**2)
  return LogLine(float(1 - residual / total) if total > 0 else np.nan, float(slope))


def rank_correlation(a, b) -> float:
  """Spearman's rank correlation: Pearson's of the ranks, equal values sharing their mean rank.

  Args:
    a, b: [n]. Pairs with a nan are left out; inf is the largest value.

  Returns: a number in [−1, 1]; nan for fewer than two pairs, or where a or b is constant.
  """
  a, b = np.asarray(a, float), np.asarray(b, float)
  if a.ndim != 1 or a.shape != b.shape:
    raise ValueError(f"a and b must have the same shape [n]; got {list(a.shape)}, {list(b.shape)}")
  usable = ~(np.isnan(a) | np.isnan(b))
  a, b = _ranks(a[usable]), _ranks(b[usable])
  scale = np.sqrt((a @ a) * (b @ b))
  return float(a @ b / scale) if scale > 0 else np.nan


def _ranks(values: np.ndarray) -> np.ndarray:
  """Ranks about their mean, which is the same for any values."""
  ordered = np.sort(values)
  below, up_to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
  return (below + up_to - len(values)) / 2


def _layers(name: str, values) -> np.ndarray:
  values = np.asarray(values, float)
  if values.ndim != 1 or not values.size:
    raise ValueError(f"{name} must have shape [layers], at least one; got {list(values.shape)}")
  return values
