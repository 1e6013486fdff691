import math

import numpy as np

from nc_jax.experiments.statistics import ratio, share_of_fall


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
