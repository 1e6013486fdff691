import json
import math

from nc_jax import verdict


def rows(train, test, weak, errors):
  """Rows of a run observed at epochs 0, 1, 10, ...: one value of each curve per epoch."""
  table = []
  for epoch, values in zip(
    (0, 1, 10, 100), zip(train, test, weak, errors, strict=True), strict=False
  ):
    for (split, layer, key), value in zip(
      (
        ("train", "penultimate", "nc1/trace_ratio"),
        ("test", "penultimate", "nc1/trace_ratio"),
        ("test", "penultimate", "weak/second_moment"),
        ("train", "logits", "error/classifier"),
      ),
      values,
      strict=True,
    ):
      table.append(
        {"step": epoch, "epoch": epoch, "split": split, "layer": layer, "key": key, "value": value}
      )
  return table


GOOD = rows((50, 2, 0.2, 0.01), (50, 3, 0.4, 0.2), (40, 2, 0.3, 0.1), (0.9, 0.2, 0, 0))


def test_a_run_that_collapses_on_train_alone_passes_with_its_numbers():
  result = verdict.judge(GOOD)
  assert [check.measured for check in result.checks] == [0.01, 200, 20, 10]
  assert result.passed and all(check.passed for check in result.checks)
  assert result.terminal_epoch == 10
  assert math.isnan(result.final["error(test)"])  # the rows do not hold it


def test_each_check_fails_alone():
  for change, failing in (
    ({"train": (50, 9, 0.2, 0.03), "test": (50, 3, 0.4, 0.6), "weak": (40, 2, 0.3, 0.3)}, 0),
    ({"train": (50, 0.9, 0.2, 0.01)}, 1),  # from epoch 1, not from the untrained network
    ({"test": (50, 3, 0.4, 0.09)}, 2),
    ({"weak": (40, 2, 0.3, 0.04)}, 3),
  ):
    curves = {
      "train": (50, 2, 0.2, 0.01),
      "test": (50, 3, 0.4, 0.2),
      "weak": (40, 2, 0.3, 0.1),
      "errors": (0.9, 0.2, 0, 0),
    } | change
    result = verdict.judge(rows(**curves))
    assert [not check.passed for check in result.checks] == [i == failing for i in range(4)]
    assert not result.passed


def test_nan_passes_nothing_and_json_stays_json(tmp_path):
  result = verdict.judge(rows((50, 2, 1, math.nan), (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)))
  assert not any(check.passed for check in result.checks)
  assert result.terminal_epoch is None
  verdict.write(result, tmp_path)
  read = json.loads((tmp_path / "verdict.json").read_text(), parse_constant=None)
  assert read["passed"] is False and read["checks"][0]["measured"] == "nan"
  text = (tmp_path / "verdict.txt").read_text()
  assert text.count("FAIL") == 4 and "since: never" in text


def test_perfect_collapse_is_not_a_division_by_zero():
  result = verdict.judge(rows((50, 2, 1, 0.0), (1, 1, 1, 1), (1, 1, 1, 1), (1, 0, 0, 0)))
  assert [check.measured for check in result.checks] == [0, math.inf, math.inf, math.inf]
  assert result.passed
