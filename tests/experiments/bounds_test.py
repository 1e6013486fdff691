import math

import numpy as np
import pytest

from nc_jax.experiments import bounds
from nc_jax.experiments.claims import Claim, Table, measured, per_seed
from nc_jax.experiments.results import Cell, Results
from tests.experiments.made_up import run

V = ("train", "penultimate", "nc1/trace_ratio")
FACTORS = np.linspace(0.9, 1.1, 41)  # of which the middle 95 % end at 0.905 and 1.095


def results(*values, factors=FACTORS):
  """V(train) halves with every epoch; each seed with a value of its own at epoch 0."""
  runs = [
    run("a", {V: lambda e, value=value: value / 2**e}, seed, range(8), factors={V: factors})
    for seed, value in enumerate(values)
  ]
  return Results([Cell("a", {})], runs)


def claims(results):
  end = results.final("a", *V)
  mean = float(end.mean()) if len(end) else math.nan
  return [
    per_seed("E9.1", "a", "the end", end, "<=", 1),
    Claim("E9.2", "a", "the end, mean over seeds", mean, "<=", 1),
  ]


def test_claims_are_judged_anew_from_each_replicate():
  worst, mean = bounds.of_claims(claims, results(128, 256))
  assert (worst.measured, mean.measured) == (2, 1.5)
  np.testing.assert_allclose((worst.low, worst.high), (1.81, 2.19))
  np.testing.assert_allclose((mean.low, mean.high), (1.3575, 1.6425))


def test_a_claim_on_means_says_what_each_seed_gives_by_itself():
  worst, mean = bounds.of_claims(claims, results(128, 256))
  assert worst.seeds == mean.seeds == [1, 2]
  assert not mean.passed and mean.measured == 1.5  # by which it is judged


def test_without_replicates_and_without_runs_there_are_no_bounds():
  for made in (results(128, factors=[]), results()):
    for claim in bounds.of_claims(claims, made):
      assert math.isnan(claim.low) and math.isnan(claim.high)


def table(results):
  end = results.final("a", *V)
  rows = [{"cell": "a", "seeds": len(end)} | measured("V", end) | {"twice": 2 * end.mean()}]
  return Table.of([*rows, {"cell": "b", "seeds": 0, "n": 3}])


def test_beside_each_measured_column_stand_its_bounds():
  found = bounds.of_table(table, results(128, 256))
  assert found.columns == [
    "cell", "seeds", "V", "V low", "V high", "V min", "V max", "twice", "twice low", "twice high",
    "n",
  ]  # fmt: skip
  first, second = (dict(zip(found.columns, row, strict=True)) for row in found.rows)
  assert (first["V"], first["V min"], first["V max"], first["seeds"]) == (1.5, 1, 2, 2)
  assert (first["V low"], first["twice high"]) == pytest.approx((1.3575, 3.285))
  assert math.isnan(second["V low"]) and second["n"] == 3
  assert "| a | 2 | 1.50 (1 to 2) [1.36, 1.64] | 3 [2.71, 3.29] | – |" in found.to_markdown()
