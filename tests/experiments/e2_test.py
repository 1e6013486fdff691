import csv
import math

import numpy as np
import pytest

from nc_jax.experiments import claims, e2
from nc_jax.experiments.results import Cell, Results
from tests.experiments.made_up import drawn, run

SIZES = (150, 300, 750, 1500, 3000, 6000)
REFERENCE = 1500
UPDATES, EPOCHS = ("every n, updates held", "every n, epochs held")


def train(n, epochs):
  """V(train): the more updates for each example, the lower."""
  return 3 / epochs


def test(n, epochs):
  return 20 / n**0.6


test.__test__ = False  # a formula, named as it is written in the claims


def grid(
  V_train=train, V_test=test, error=lambda n, epochs: 6 / n**0.7, train_error=0.0, missing=()
):
  """Both budgets, which share the reference n; two seeds, 10 % above and below the formula."""
  cells, runs = [], []
  for budget in ("updates", "epochs"):
    for n in SIZES:
      if n == REFERENCE and budget == "epochs":
        continue
      epochs = 300 * REFERENCE // n if budget == "updates" else 300
      budget_of_cell = "both" if n == REFERENCE else budget
      cell = Cell(
        f"n={n}, {budget_of_cell}",
        {"optim": {"total_epochs": epochs}},
        {"n": n, "budget": budget_of_cell},
      )
      cells.append(cell)
      for seed, factor in enumerate((0.9, 1.1)):
        falling = lambda end: lambda e: end * (1 + 50 / (1 + e) - 50 / 301)
        ends = {
          ("train", "penultimate", "nc1/trace_ratio"): falling(factor * V_train(n, epochs)),
          ("test", "penultimate", "nc1/trace_ratio"): falling(factor * V_test(n, epochs)),
          ("test", "penultimate", "weak/second_moment"): V_test(n, epochs) / 2,
          ("test", "logits", "error/classifier"): factor * error(n, epochs),
          ("train", "logits", "error/classifier"): train_error if n == 6000 else 0.0,
        }
        runs.append(run(cell.name, ends, seed, epochs=(0, 1, 10, 100, 300)))
  runs = [r for r in runs if r.cell not in missing]
  return Results(cells[::-1], runs)  # the order they are asked for does not matter


def failing(results):
  return {(claim.item, claim.cell) for claim in e2.claims(results) if not claim.passed}


def test_every_claim_holds_in_the_paper_s_world():
  results = grid()
  found = {(claim.item, claim.cell): claim for claim in e2.claims(results)}
  both = [(item, cell) for cell in (UPDATES, EPOCHS) for item in ("E2.1", "E2.1b", "E2.2")]
  held = [(item, UPDATES) for item in ("E2.2b", "E2.2c", "E2.3", "E2.3b")]
  assert found.keys() == {*both, *held} and not failing(results)
  assert claims.verdict(found.values(), results.cells).passed
  # The largest step is the smallest ratio of sizes, 2, with the seeds averaged.
  np.testing.assert_allclose(found["E2.1", UPDATES].measured, 2**-0.6)
  np.testing.assert_allclose(found["E2.1b", UPDATES].measured, 20 / 6000**0.6)
  assert found["E2.2b", UPDATES].measured == pytest.approx(1)
  assert found["E2.3b", UPDATES].measured == pytest.approx(-1)


@pytest.mark.parametrize(
  ("change", "items"),
  [
    # One size is out of line, by more than its neighbour allows.
    ({"V_test": lambda n, e: test(n, e) * (2 if n == 750 else 1)}, {"E2.1"}),
    ({"V_test": lambda n, e: test(n, e) / 1000}, {"E2.1b"}),  # ends at 1e-4
    ({"train_error": 0.01}, {"E2.2"}),
    ({"train_error": math.nan}, {"E2.2"}),
    ({"V_test": lambda n, e: n / 1e4}, {"E2.1", "E2.2c", "E2.3"}),  # more data, less test collapse
    ({"V_train": lambda n, e: 1 / n}, {"E2.2b", "E2.3b"}),  # both collapse more with n
    ({"error": lambda n, e: n / 1e4}, {"E2.3", "E2.3b"}),
    ({"V_test": lambda n, e: 0.1}, {"E2.2c", "E2.3"}),  # n does not matter
    ({"V_test": lambda n, e: math.nan}, {"E2.1", "E2.1b", "E2.2c", "E2.3"}),
  ],
)
def test_each_claim_fails_where_its_phenomenon_is_absent(change, items):
  assert {item for item, _ in failing(grid(**change))} == items


def test_budgets_are_judged_apart_and_share_the_reference():
  results = grid(V_test=lambda n, e: test(n, e) * (9 if e == 300 and n == 6000 else 1))
  assert failing(results) == {("E2.1", EPOCHS)}
  for budget in ("updates", "epochs"):
    assert [cell.values["n"] for cell in e2.cells_of(results, budget)] == list(SIZES)
  results = grid(V_test=lambda n, e: test(n, e) * (9 if n == REFERENCE else 1))
  assert {("E2.1", UPDATES), ("E2.1", EPOCHS)} <= failing(results)


def test_sizes_that_did_not_end_satisfy_nothing():
  cells = grid().cells
  nothing = Results(cells, [])
  assert failing(nothing) == {(claim.item, claim.cell) for claim in e2.claims(nothing)}
  one_less = grid(missing=("n=150, updates",))
  assert {("E2.1", UPDATES), ("E2.2", UPDATES)} <= failing(one_less)
  for results in (nothing, one_less, Results(cells[:1], [])):
    assert all(image.startswith(b"\x89PNG") for image in drawn(e2.figures(results)).values())


def test_the_table_has_a_row_per_cell(tmp_path):
  results = grid()
  e2.table(results).to_csv(tmp_path / "table.csv")
  with (tmp_path / "table.csv").open() as file:
    rows = {(int(row["n"]), row["budget"]): row for row in csv.DictReader(file)}
  assert len(rows) == 11 and (1500, "both") in rows
  row = rows[300, "updates"]
  assert (row["epochs"], row["seeds"]) == ("1500", "2")
  assert float(row["V(test)"]) == pytest.approx(20 / 300**0.6)
  assert float(row["V(test) max"]) == pytest.approx(1.1 * 20 / 300**0.6)
  assert float(row["test accuracy"]) == pytest.approx(1 - 6 / 300**0.7)


def test_figures_show_the_ends_over_n_in_a_panel_per_budget():
  figures = e2.figures(grid())
  for stem in ("e2_size", "e2_phase"):
    assert [axes.get_title() for axes in figures[stem].axes] == ["updates held", "epochs held"]
  lines = {line.get_label(): line.get_xydata() for line in figures["e2_size"].axes[0].lines}
  np.testing.assert_allclose(lines["V(test)"], [(n, 20 / n**0.6) for n in SIZES])
  np.testing.assert_allclose(lines["V(train)"], [(n, n / 150_000) for n in SIZES])
  joined = [line for line in figures["e2_phase"].axes[0].lines if len(line.get_xdata()) == 6]
  np.testing.assert_allclose(joined[0].get_xydata(), [(n / 150_000, 20 / n**0.6) for n in SIZES])


def test_curves_with_holes_are_drawn():
  results = grid(V_test=lambda n, e: math.inf if n == 300 else 0.0, V_train=lambda n, e: math.nan)
  assert all(image.startswith(b"\x89PNG") for image in drawn(e2.figures(results)).values())
