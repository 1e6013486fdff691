import math

import numpy as np
import pytest
from scipy import stats

from nc_jax.experiments.statistics import rank_correlation, ratio, share_of_fall


def test_rank_correlation_is_spearman_s_with_ties():
  rng = np.random.default_rng(0)
  x, y = rng.integers(0, 5, 30), rng.normal(size=30)
  assert rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
  assert rank_correlation(y, np.exp(y)) == pytest.approx(1)
  assert rank_correlation(y, -(y**3)) == pytest.approx(-1)


def test_nan_is_left_out_and_inf_is_the_largest():
  assert rank_correlation([1, 2, math.nan, 3], [1, 2, 9, math.inf]) == pytest.approx(1)
  assert rank_correlation([1, 2, 3, 4], [2, 1, math.nan, 5]) == pytest.approx(0.5)


def test_without_an_order_there_is_no_agreement():
  for x, y in (([], []), ([1], [1]), ([1, 2], [3, 3]), ([1, math.nan], [1, 2])):
    assert math.isnan(rank_correlation(x, y))
  with pytest.raises(ValueError, match=r"got \[2\] and \[3\]"):
    rank_correlation([1, 2], [1, 2, 3])


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
