"""How curves and numbers go together: ratios and falls."""

from collections.abc import Sequence

import numpy as np


def at_common_epochs(
  curves: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, list[np.ndarray]]:
  """Curves (epochs [E], values [..., E]), at the epochs that all of them have.

  Returns: epochs int [E'], increasing, and the values [..., E'] of each; E' is 0 without curves.
  """
  first = curves[0][0] if curves else np.zeros(0, int)
  if all(np.array_equal(epochs, first) for epochs, _ in curves):  # as nearly always
    return first, [values for _, values in curves]
  common = sorted(set.intersection(*({*epochs.tolist()} for epochs, _ in curves)))
  return np.array(common, int), [values[..., np.isin(epochs, common)] for epochs, values in curves]


def ratio(a, b) -> np.ndarray:
  """a / b elementwise; inf for a positive number over 0, nan for 0 over 0."""
  with np.errstate(divide="ignore", invalid="ignore"):
    return np.asarray(a, float) / np.asarray(b, float)


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
