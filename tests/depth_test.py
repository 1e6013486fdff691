import numpy as np
import pytest
from scipy import stats

from nc_jax import depth

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
  ("errors", "expected"),
  [
    ((0.5, 0.2, 0.0, 0.0), 3),
    ((0.5, 0.2, 0.01, 0.0), 3),  # at the tolerance it is separated
    ((0.5, 0.0, 0.2, 0.0), 4),  # layer 2 separated, layer 3 mixed again
    ((0.0, 0.0), 1),
    ((0.5, 0.0, 0.02), NAN),
    ((NAN, 0.0), 2),
    ((0.0, NAN), NAN),
  ],
)
def test_ncc_depth_is_where_the_classes_separate_for_good(errors, expected):
  np.testing.assert_equal(depth.ncc_depth(errors), expected)


def test_ncc_depth_with_more_tolerance_is_less():
  assert depth.ncc_depth((0.5, 0.2, 0.0), tolerance=0.2) == 2
  assert depth.ncc_depth((0.5, 0.2, 0.0), tolerance=0.5) == 1


@pytest.mark.parametrize(
  ("accuracies", "share", "expected"),
  [
    ((0.5, 0.8, 0.95, 1.0), 0.95, 3),
    ((0.5, 0.8, 0.95, 1.0), 0.8, 2),
    ((0.5, 0.8, 0.94, 1.0), 0.95, 4),
    ((0.9, 0.8, 0.7), 0.95, 1),  # the probe is worse at the end: all of it is tunnel
    ((NAN, 1.0, 1.0), 0.95, 2),
    ((1.0, NAN), 0.95, NAN),
  ],
)
def test_the_tunnel_starts_where_a_probe_is_nearly_as_good_as_at_the_end(
  accuracies, share, expected
):
  np.testing.assert_equal(depth.tunnel_start(accuracies, share), expected)


def test_first_below_is_the_first_observed_epoch_and_never_is_nan():
  values = [(9, 1.0, NAN, 0.1, INF), (9, 0.4, NAN, 0.9, 1), (9, 0.9, 0.1, 0.1, 0.5)]
  found = depth.first_below(values, (0, 1, 10), threshold=0.5)
  np.testing.assert_equal(found, [NAN, 1, 10, 0, NAN])  # 0.5 is not below 0.5


def test_first_below_without_observations_is_never():
  np.testing.assert_equal(depth.first_below(np.empty((0, 2)), (), 1), [NAN, NAN])


@pytest.mark.parametrize(
  ("first_epochs", "expected"),
  [
    ((100, 10, 3, 1), -1),
    ((1, 3, 10, 100), 1),
    ((NAN, 10, 3, 1), -1),  # never is later than all
    ((INF, 10, 3, 1), -1),
    ((NAN, NAN, 1), stats.spearmanr((0, 1, 2), (9, 9, 1)).statistic),
    ((7, 7, 3, 1), stats.spearmanr((0, 1, 2, 3), (7, 7, 3, 1)).statistic),
    ((5, 5, 5), NAN),
    ((NAN, NAN), NAN),
    ((5,), NAN),
  ],
)
def test_cascade_score(first_epochs, expected):
  np.testing.assert_allclose(depth.cascade_score(first_epochs), expected, rtol=1e-12)


def test_log_linearity_of_a_geometric_law_is_exact():
  line = depth.log_linearity(5 * 0.3 ** np.arange(6))
  np.testing.assert_allclose(line, (1, np.log(0.3)), rtol=1e-12)


def test_log_linearity_agrees_with_a_regression_and_leaves_out_what_has_no_logarithm():
  values = np.array([4.0, NAN, 1.5, 0.0, 0.5, INF, 0.3])
  usable = [0, 2, 4, 6]
  fit = stats.linregress(usable, np.log(values[usable]))
  np.testing.assert_allclose(depth.log_linearity(values), (fit.rvalue**2, fit.slope), rtol=1e-12)


def test_log_linearity_of_a_step_is_poor():
  assert depth.log_linearity([1] * 4 + [1e-3] * 4).r_squared < 0.8


def test_log_linearity_has_no_answer_from_two_layers_nor_from_equal_ones():
  np.testing.assert_equal(depth.log_linearity((1, 0.1, 0)), (NAN, NAN))
  np.testing.assert_equal(depth.log_linearity((2, 2, 2)), (NAN, 0))


def test_rank_correlation_agrees_with_scipy_with_and_without_ties():
  random = np.random.default_rng(0)
  for levels in (3, 10**6):
    a, b = random.integers(levels, size=(2, 20))
    expected = stats.spearmanr(a, b).statistic
    np.testing.assert_allclose(depth.rank_correlation(a, b), expected, rtol=1e-12)


def test_rank_correlation_leaves_out_pairs_with_nan_and_has_no_answer_without_order():
  assert depth.rank_correlation((1, NAN, 2, 3), (1, 0, NAN, 3)) == 1
  for a, b in (((1, 2, 3), (4, 4, 4)), ((1,), (1,)), ((), ())):
    assert np.isnan(depth.rank_correlation(a, b))


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: depth.ncc_depth([[0.1]]), r"errors must have shape \[layers\].*got \[1, 1\]"),
    (lambda: depth.tunnel_start([]), r"accuracies must have shape \[layers\].*got \[0\]"),
    (lambda: depth.first_below(np.ones((3, 2)), (0, 1), 1), r"got \[3, 2\] and \[2\]"),
    (lambda: depth.rank_correlation((1, 2), (1, 2, 3)), r"got \[2\], \[3\]"),
  ],
)
def test_a_wrong_shape_is_said(call, message):
  with pytest.raises(ValueError, match=message):
    call()
