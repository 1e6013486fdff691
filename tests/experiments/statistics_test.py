import math

import numpy as np

from nc_jax.experiments.statistics import difference_bounds, ratio, ratio_bounds, share_of_fall


def test_ratios_at_zero():
  assert ratio([1, 1], [2, 0]).tolist() == [0.5, math.inf]
  assert np.isnan(ratio([0, 1], [0, math.nan])).all()


def test_share_of_fall_is_an_exponent():
  y = np.array([[100, 10, 1.0], [8, 1, 0.5]])
  np.testing.assert_allclose(share_of_fall(3 * y**0.25, y), 0.25)
  np.testing.assert_allclose(share_of_fall(np.full_like(y, 7), y), 0)
  assert (share_of_fall(1 / y, y) < 0).all()
  assert np.isnan(share_of_fall(y, 1 / y)).all()  # y did not fall
  assert np.isnan(share_of_fall(y[:, :1], y[:, :1])).all()  # one epoch is no stretch
  assert np.isnan(share_of_fall(y[:, :0], y[:, :0])).all()
  assert share_of_fall([4.0, 1], [4.0, 0]) == 0  # collapse to the last bit


def test_bounds_of_a_difference_are_those_of_a_gaussian_one():
  # Widths add in quadrature; a number without width leaves those of the other.
  low, high = difference_bounds([10.0, 10], ([7, 10], [13, 10]), [4.0, 4], ([0, 2], [8, 5]))
  np.testing.assert_allclose((low, high), ([1, 5], [11, 8]))
  assert np.isnan(difference_bounds([1.0], ([np.nan], [2]), [0.0], ([0], [0]))[0]).all()


def test_bounds_of_a_ratio_are_those_of_logarithms():
  rng = np.random.default_rng(0)
  a, b = np.exp(rng.normal(1, 0.1, 100_000)), np.exp(rng.normal(0, 0.2, 100_000))
  of = lambda x: np.quantile(x, (0.025, 0.975))[:, None]
  low, high = ratio_bounds([np.exp(1)], of(a), [1.0], of(b))
  np.testing.assert_allclose((low, high), of(a / b), rtol=0.01)
  assert np.isnan(ratio_bounds([1.0], ([0], [2]), [0.0], ([0], [0]))).all()
