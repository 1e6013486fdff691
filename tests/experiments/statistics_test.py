import math

import numpy as np

from nc_jax.experiments.statistics import at_common_epochs, ratio, share_of_fall


def test_curves_meet_at_the_epochs_that_all_have():
  a = np.array([0, 1, 5, 9]), np.array([10.0, 11, 15, 19])
  b = np.array([1, 2, 9]), np.array([[1.0, 2, 9], [-1, -2, -9]])
  epochs, (of_a, of_b) = at_common_epochs([a, b])
  assert epochs.tolist() == [1, 9] and of_a.tolist() == [11, 19]
  assert of_b.tolist() == [[1, 9], [-1, -9]]
  epochs, (of_a,) = at_common_epochs([a])
  assert (epochs is a[0]) and (of_a is a[1])
  epochs, (of_a, none) = at_common_epochs([a, (np.zeros(0, int), np.zeros((3, 0)))])
  assert epochs.shape == (0,) and of_a.shape == (0,) and none.shape == (3, 0)
  assert at_common_epochs([])[0].shape == (0,)


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
