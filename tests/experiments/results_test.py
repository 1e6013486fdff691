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
  assert np.isnan(one.bounds("a", *V)).all() and np.shape(one.bounds("b", *V)) == (2, 0)


def test_keys_are_those_of_one_layer_and_split_in_any_seed():
  other = rows({0: 1}, ("test", *V[1:])) + rows({0: 1}, ERROR)
  both = results(
    Run("a", 0, rows({0: 4, 1: 2}) + other), Run("a", 1, rows({0: 1}, (*V[:2], "rank/numerical")))
  )
  assert both.keys("a", *V[:2]) == [V[2], "rank/numerical"]
  assert both.keys("a", "test", "layer1") == [] == both.keys("b", *V[:2])


def test_each_seed_has_bounds():
  bounded = [
    Run("a", seed, rows({5: low}, (*V[:2], V[2] + "/low")) + rows({5: 9}, (*V[:2], V[2] + "/high")))
    for seed, low in ((0, 1), (1, 2))
  ]
  np.testing.assert_array_equal(results(*bounded).bounds("a", *V), ([1, 2], [9, 9]))


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
