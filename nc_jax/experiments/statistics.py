"""How curves and numbers go together: ratios and falls, and the bounds of what is made of two."""

import numpy as np


def ratio(a, b) -> np.ndarray:
  """a / b elementwise; inf for a positive number over 0, nan for 0 over 0."""
  with np.errstate(divide="ignore", invalid="ignore"):
    return np.asarray(a, float) / np.asarray(b, float)


def ratio_bounds(a, a_bounds, b, b_bounds) -> tuple[np.ndarray, np.ndarray]:
  """Bounds of a / b from those of two positive numbers, which were estimated apart.

      log of the lower one: log(a / b) − √((log a − log a_low)² + (log b_high − log b)²)

  Args:
    a, b: [S].
    a_bounds, b_bounds: (low [S], high [S]).

  Returns: (low [S], high [S]); nan where a bound is.

  References: Donner and Zou 2012, Statistical Methods in Medical Research 21(4).
  """
  with np.errstate(divide="ignore", invalid="ignore"):
    logs = [np.log(np.asarray(x, float)) for x in (a, *a_bounds, b, *b_bounds)]
  low, high = difference_bounds(logs[0], logs[1:3], logs[3], logs[4:])
  return np.exp(low), np.exp(high)


def difference_bounds(a, a_bounds, b, b_bounds) -> tuple[np.ndarray, np.ndarray]:
  """Bounds of a − b from those of two numbers: a − b − √((a − a_low)² + (b_high − b)²), and so on.

  Wider than need be where the two go up and down with the same examples.

  Args, returns, references: as `ratio_bounds`.
  """
  a, a_low, a_high, b, b_low, b_high = (np.asarray(x, float) for x in (a, *a_bounds, b, *b_bounds))
  with np.errstate(invalid="ignore"):  # inf − inf
    low = a - b - np.hypot(a - a_low, b_high - b)
    high = a - b + np.hypot(a_high - a, b - b_low)
  return low, high


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
