"""How curves and numbers go together: ratios, falls, rank agreement."""

import numpy as np


def ratio(a, b) -> np.ndarray:
  """a / b elementwise; inf for a positive number over 0, nan for 0 over 0."""
  with np.errstate(divide="ignore", invalid="ignore"):
    return np.asarray(a, float) / np.asarray(b, float)


def rank_correlation(x, y) -> float:
  """Spearman's ρ: Pearson's correlation of the ranks, ties at their mean rank.

  Pairs with a nan are left out; an inf is the largest of all. nan with fewer than two pairs, and
  where x or y is constant: then there is no order to agree on.
  """
  from scipy import stats  # takes most of a second to import

  x, y = np.asarray(x, float), np.asarray(y, float)
  if x.shape != y.shape or x.ndim != 1:
    raise ValueError(f"x and y must have one shape [N]; got {list(x.shape)} and {list(y.shape)}")
  both = ~(np.isnan(x) | np.isnan(y))
  x, y = x[both], y[both]
  if len(x) < 2 or np.ptp(stats.rankdata(x)) == 0 or np.ptp(stats.rankdata(y)) == 0:
    return float("nan")
  return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def share_of_fall(x, y) -> np.ndarray:
  """How far x fell for each factor that y fell, from the first to the last value.

      log(x_0 / x_-1) / log(y_0 / y_-1)

  1: x follows y; 0: x stays while y falls; negative: x rises. nan unless y fell.

  Args:
    x, y: positive, [..., E].

  Returns: float64 [...].
  """
  x, y = np.asarray(x, float), np.asarray(y, float)
  if not x.shape[-1] or not y.shape[-1]:
    return np.full(x.shape[:-1], np.nan)
  with np.errstate(divide="ignore", invalid="ignore"):
    fall_of_x, fall_of_y = (np.log(z[..., 0]) - np.log(z[..., -1]) for z in (x, y))
    return np.where(fall_of_y > 0, fall_of_x / fall_of_y, np.nan)
