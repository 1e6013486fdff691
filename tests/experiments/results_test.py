import csv

import numpy as np
import pytest

from nc_jax.experiments.results import Cell, Results, Run

V = ("train", "penultimate", "nc1/trace_ratio")
ERROR = ("train", "logits", "error/classifier")


def rows(values, where=V):
  return [(epoch, *where, value) for epoch, value in values.items()]


def results(*runs, cells=("a", "b")):
  return Results([Cell(name, {}) for name in cells], list(runs))


def test_a_curve_holds_the_epochs_that_all_seeds_have_in_order():
  both = results(Run("a", 3, rows({10: 1, 0: 4, 1: 2})), Run("a", 1, rows({0: 8, 10: 3})))
  epochs, values = both.curve("a", *V)
  assert epochs.tolist() == [0, 10]
  assert values.tolist() == [[4, 1], [8, 3]]
  assert both.seeds("a") == [3, 1]  # the order of the rows of `values`


def test_what_is_absent_is_empty_or_nan():
  one = results(Run("a", 0, rows({0: 4, 10: 1}) + rows({0: 0.5}, ("test", *V[1:]))))
  epochs, values = one.curve("a", "test", "layer1", "nc1/pinv")
  assert epochs.shape == (0,) and values.shape == (1, 0)
  assert one.curve("b", *V)[1].shape == (0, 0) and one.final("b", *V).shape == (0,)
  # Its last epoch is 10, where this split was not seen: the value of epoch 0 is not the final one.
  assert np.isnan(one.final("a", "test", *V[1:])).tolist() == [True]
  assert one.final("a", *V).tolist() == [1]


def test_keys_are_those_of_one_layer_and_split_in_any_seed():
  other = rows({0: 1}, ("test", *V[1:])) + rows({0: 1}, ERROR)
  both = results(
    Run("a", 0, rows({0: 4, 1: 2}) + other), Run("a", 1, rows({0: 1}, (*V[:2], "rank/numerical")))
  )
  assert both.keys("a", *V[:2]) == [V[2], "rank/numerical"]
  assert both.keys("a", "test", "layer1") == [] == both.keys("b", *V[:2])


TEST_V = ("test", *V[1:])


def resampled(seed, factors, of_test=None):
  """V(train) falls from 8 to 1, V(test) from 8 to 2; replicates are as many times these."""
  curves = {V: {0: 8.0, 5: 2.0, 9: 1.0}, TEST_V: {0: 8.0, 5: 4.0, 9: 2.0}}
  made = {V: np.array(factors), TEST_V: np.array(factors if of_test is None else of_test)}
  replicates = {
    where: {epoch: value * made[where] for epoch, value in curve.items()}
    for where, curve in curves.items()
  }
  return Run(
    "a", seed, [row for where in curves for row in rows(curves[where], where)], None, replicates
  )


def test_bounds_are_of_what_is_made_anew_of_each_replicate():
  factors = np.arange(1, 42) / 20  # of which the middle 95 % end at the second and the last but one
  one = results(resampled(0, factors))
  end = lambda of: of.final("a", *V)
  np.testing.assert_allclose(one.bounds(end), ([0.1], [2.0]))
  # The same examples in both: their ratio does not depend on them. Apart it would.
  ratio = lambda of: of.final("a", *TEST_V) / of.final("a", *V)
  np.testing.assert_allclose(one.bounds(ratio), ([2], [2]))
  apart = results(resampled(0, factors, of_test=factors[::-1])).bounds(ratio)
  np.testing.assert_allclose(apart, ([2 * 2 / 40], [2 * 40 / 2]))
  curve = lambda of: of.curve("a", *V)[1]
  np.testing.assert_allclose(one.bounds(curve)[1], [[16, 4, 2]])


def test_a_run_without_replicates_leaves_no_bounds():
  both = results(resampled(0, [1, 2]), Run("a", 1, rows({9: 1})))
  assert np.isnan(both.bounds(lambda of: of.final("a", *V))).all()
  assert np.shape(results().bounds(lambda of: of.final("b", *V))) == (2, 0)
  assert np.shape(both.bounds(lambda of: [[1.0, 2.0]])) == (2, 1, 2)


def test_replicates_of_some_epochs_alone_are_not_mixed_with_plain_numbers():
  whole = resampled(0, [1, 2])
  partly = {where: {0: curve[0]} for where, curve in whole.replicates.items()}
  curve = lambda of: of.curve("a", *V)[1]
  assert not np.isnan(results(whole).bounds(curve)).any()
  assert np.isnan(results(whole._replace(replicates=partly)).bounds(curve)).all()


def test_a_number_with_replicates_at_its_end_alone_keeps_its_value_before():
  """As nc1/pinv of the test set: other numbers have replicates at every epoch."""
  whole, pinv = resampled(0, [0.5, 2]), ("test", "penultimate", "nc1/pinv")
  own = {pinv: {9: np.array([3.0, 5])}}
  one = results(
    whole._replace(
      rows=whole.rows + rows({0: 7, 9: 4}, pinv), replicates={**whole.replicates, **own}
    )
  )
  assert one.curve("a", *pinv)[1].tolist() == [[7, 4]]
  low, high = one.bounds(lambda of: of.curve("a", *pinv)[1])
  np.testing.assert_array_equal((low, high), ([[7, 3]], [[7, 5]]))


def test_what_comes_in_some_replicates_alone_has_no_bounds():
  """An epoch that is never reached is nan: were these left out, the rest would look certain."""
  for lacking, bounded in ((4, True), (6, False)):
    one = results(resampled(0, [1.0] * (100 - lacking) + [2.0] * lacking))
    crossing = lambda of: [9.0 if of.final("a", *V) < 1.5 else np.nan]
    np.testing.assert_equal(one.bounds(crossing), [[9.0 if bounded else np.nan]] * 2)
  assert np.isnan(one.bounds(lambda of: [np.nan if of is one else 1.0])).all()


def test_one_seed_can_be_looked_at_alone():
  both = results(resampled(3, [1, 1]), resampled(1, [2, 2]), Run("b", 3, rows({9: 7})))
  alone = both.alone(3)
  assert alone.seeds("a") == [3] and alone.final("b", *V).tolist() == [7]
  assert both.seeds("a") == [3, 1] and both.alone(1).seeds("b") == []


def test_the_terminal_phase_begins_at_error_0_seed_by_seed():
  one = results(
    Run("a", 0, rows({0: 0.9, 5: 0.0, 9: 0.1}, ERROR)),
    Run("a", 1, rows({0: 0.9, 5: 0.1, 9: 0.001}, ERROR)),
    Run("a", 2, rows({0: 1})),
  )
  assert one.terminal_epoch("a") == [5, None, None]


def test_layers_stand_in_the_order_of_the_network():
  names = ("layer1", "layer2", "penultimate", "logits")
  in_order = [row for name in names for row in rows({0: 1}, ("train", name, "loss"))]
  assert results(Run("a", 0, in_order)).layers("a") == ["layer1", "layer2", "penultimate"]


def test_a_failed_run_counts_for_nothing_but_is_kept(tmp_path):
  whole, failed = Run("a", 0, rows({0: 4, 9: 1})), Run("a", 1, rows({0: 5}), "loss nan at step 31")
  both = results(whole, failed)
  assert both.seeds("a") == [0] and both.failed == [failed]
  assert both.curve("a", *V)[0].tolist() == [0, 9] and both.final("a", *V).tolist() == [1]
  both.write_csv(tmp_path / "rows.csv")
  with (tmp_path / "rows.csv").open() as file:
    read = list(csv.reader(file))
  assert read == [
    ["cell", "seed", "epoch", "split", "layer", "key", "value"],
    ["a", "0", "0", *V, "4"],
    ["a", "0", "9", *V, "1"],
    ["a", "1", "0", *V, "5"],
  ]


def test_numbers_survive_the_csv(tmp_path):
  values = {0: float(np.float32(1) / 3), 1: float("nan"), 2: float("inf")}
  results(Run("a", 0, rows(values))).write_csv(tmp_path / "rows.csv")
  with (tmp_path / "rows.csv").open() as file:
    read = [float(row["value"]) for row in csv.DictReader(file)]
  np.testing.assert_array_equal(np.float32(read), np.float32(list(values.values())))


def test_names_must_tell_cells_and_runs_apart():
  with pytest.raises(ValueError, match="got twice: a"):
    results(cells=("a", "b", "a"))
  with pytest.raises(ValueError, match="got twice: a, 7"):
    results(Run("a", 7, []), Run("a", 7, []))
  with pytest.raises(ValueError, match="one of a, b; got 'c'"):
    results(Run("c", 0, []))
  with pytest.raises(ValueError, match="one of a, b; got 'c'"):
    results().final("c", *V)
