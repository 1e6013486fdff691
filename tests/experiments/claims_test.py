import csv
import json
import math

import numpy as np
import pytest

from nc_jax.experiments import claims
from nc_jax.experiments.claims import Claim, Table, measured, per_seed, spread, three_digits
from nc_jax.experiments.results import Cell, Run

NAN = math.nan
GOOD, BAD = Cell("good", {}), Cell("bad", {}, negative=True)


def claim(cell, seeds, threshold=10):
  return per_seed("E1.2", cell, "ratio", seeds, ">=", threshold)


def test_the_worst_seed_counts_and_nan_passes_nothing():
  assert per_seed("", "", "", [3, 1, 2], "<=", 2.5).measured == 3
  assert per_seed("", "", "", [3, 1, 2], ">=", 2.5).measured == 1
  for relation in ("<=", ">="):
    for seeds in ([1, NAN], []):
      lacking = per_seed("", "", "", seeds, relation, 1)
      assert math.isnan(lacking.measured) and not lacking.passed
  assert per_seed("", "", "", [1, 2], "<=", 2).passed and per_seed("", "", "", [2], ">=", 2).passed


@pytest.mark.parametrize(
  ("good", "bad", "passes"),
  [
    ([12, 11], [2, 3], True),
    ([12, 9], [2, 3], False),  # one seed does not satisfy the claim
    ([12, NAN], [2, 3], False),
    ([], [2, 3], False),  # no run ended
    ([12, 11], [2, 11], False),  # one seed without batch norm does satisfy it
    ([12, 11], [2, NAN], False),
    ([12, 11], [], False),  # what did not run refutes nothing
  ],
)
def test_cells_must_pass_and_negative_ones_must_fail(good, bad, passes):
  judged = claims.verdict([claim("good", good), claim("bad", bad)], [GOOD, BAD])
  assert judged.passed == passes


def test_a_negative_cell_needs_to_fail_one_claim_only():
  held, broken = claim("bad", [20]), claim("bad", [2])
  assert claims.verdict([claim("good", [12]), held, broken], [GOOD, BAD]).passed
  assert not claims.verdict([claim("good", [12]), held], [GOOD, BAD]).passed


def test_nothing_claimed_is_nothing_shown():
  assert not claims.verdict([], [GOOD]).passed
  assert not claims.verdict([claim("good", [12])], [GOOD, BAD]).passed


def test_a_claim_on_means_has_no_seeds_and_may_span_cells():
  over = Claim("E2.1", "every n", "ratio, means over seeds", 0.9, "<=", 1)
  assert claims.verdict([over], [GOOD]).passed
  assert Claim("E2.1", "bad", "", 1.1, "<=", 1).refuted and not over.refuted


def test_the_record_is_strict_json(tmp_path):
  good = claim("good", [12, math.inf])._replace(low=11.0)
  judged = claims.verdict([good, claim("bad", [2, NAN])], [GOOD, BAD])
  failed = Run("good", 2, [], "loss nan at step 31")
  claims.write(
    judged, tmp_path / "verdict.json", experiment="e1", title="A title", failed_runs=[failed]
  )

  def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")

  record = json.loads((tmp_path / "verdict.json").read_text(), parse_constant=refuse)
  assert (record["experiment"], record["title"], record["passed"]) == ("e1", "A title", False)
  assert record["claims"] == [
    {
      "item": "E1.2",
      "cell": "good",
      "text": "ratio",
      "measured": 12,
      "relation": ">=",
      "threshold": 10,
      "low": 11,
      "high": "nan",
      "seeds": [12, "inf"],
      "passed": True,
    }
  ]
  (negative,) = record["negative"]
  assert negative["cell"] == "bad" and negative["failed_as_it_must"] is False
  assert negative["claims"][0]["measured"] == "nan" and not negative["claims"][0]["passed"]
  assert record["failed_runs"] == [{"cell": "good", "seed": 2, "failed": "loss nan at step 31"}]


def test_numbers_in_words():
  assert spread([0.006, 0.0069, 0.0063]) == "0.00640 (0.00600 to 0.00690)"
  assert spread([1, 1]) == "1" and spread([0.5]) == "0.500"
  assert spread([1, NAN]) == "–" and spread([]) == "–"
  numbers = (0, 300, 107.5, 999.9, 1234.5, 0.01234, 8.9e-6, -2.5, math.inf, NAN)
  assert [three_digits(number) for number in numbers] == [
    "0", "300", "108", "1000", "1234", "0.0123", "8.90e-06", "-2.50", "inf", "–",
  ]  # fmt: skip


def test_a_table_gives_csv_each_number_and_markdown_one_cell_for_five(tmp_path):
  table = Table.of(
    [
      {"cell": "a|b", "seeds": 2} | measured("V", [1 / 3, 2 / 3]) | {"V low": 0.25, "V high": 0.75},
      {"cell": "c", "seeds": 0} | measured("V", []) | measured("T", [100, 107]),
    ]
  )
  table.to_csv(tmp_path / "table.csv")
  with (tmp_path / "table.csv").open() as file:
    first, second = csv.DictReader(file)
  assert list(first) == [
    "cell", "seeds", "V", "V min", "V max", "V low", "V high", "T", "T min", "T max",
  ]  # fmt: skip
  assert first["cell"] == "a|b" and float(first["V min"]) == 1 / 3
  assert (first["V low"], first["T"], second["V"], second["T max"]) == (
    "0.25",
    "nan",
    "nan",
    "107.0",
  )
  assert table.to_markdown().splitlines() == [
    "| cell | seeds | V | T |",
    "| --- | --- | --- | --- |",
    "| a\\|b | 2 | 0.500 (0.333 to 0.667) [0.250, 0.750] | – |",
    "| c | 0 | – | 104 (100 to 107) |",
  ]


def test_a_claim_of_a_numpy_number_can_be_written_down(tmp_path):
  claim = Claim("E9", "a", "text", np.float64(0.5), "<=", 1)
  assert claim.passed is True
  judged = claims.verdict([claim], [])
  claims.write(judged, tmp_path / "v.json", experiment="e9", title="", failed_runs=[])
