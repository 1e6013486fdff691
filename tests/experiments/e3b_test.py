import numpy as np
import pytest

from nc_jax.experiments import e3b
from nc_jax.experiments.results import Cell, Results
from tests.experiments import e3_worlds
from tests.experiments.e3_worlds import ACCURACY, EPOCHS, FIRST_LAYER, V_TEST
from tests.experiments.made_up import drawn, run

ITEMS = {"E3.1", "E3.1b", "E3.1c", "E3.1d", "E3.3", "E3.4", "E3.4b"}
# The stand-in has 0.62, 0.79 at epoch 10, and 0.61 at the end; the rest is read between them.
LAST = (0.62, 0.70, 0.78, 0.79, 0.75, 0.70, 0.63, 0.61)


def curves(last=LAST, **changes):
  return e3_worlds.curves("held_out", last, **changes)


def judged(*seeds):
  runs = [run("a", curves, seed, EPOCHS) for seed, curves in enumerate(seeds)]
  return e3b.claims(Results([Cell("a", {})], runs))


def failing(found):
  return {claim.item for claim in found if not claim.passed}


def test_every_claim_holds_of_the_digits_as_measured():
  found = {claim.item: claim for claim in judged(curves(), curves())}
  assert found.keys() == ITEMS and not failing(found.values())
  np.testing.assert_allclose(found["E3.1c"].seeds, [0.18, 0.18])
  np.testing.assert_allclose(found["E3.1b"].measured, 10 / 300)
  np.testing.assert_allclose(found["E3.4b"].seeds, [FIRST_LAYER[-1] - FIRST_LAYER[0]] * 2)
  assert not any("ceiling" in claim.text for claim in found.values())


@pytest.mark.parametrize(
  ("absent", "items"),
  [
    ({"last": (0.80, 0.79, 0.78, 0.77, *LAST[4:])}, {"E3.1"}),
    ({"last": (*LAST[:5], 0.70, 0.80, 0.61)}, {"E3.1b"}),
    ({"last": (0.62, 0.70, 0.78, 0.79, 0.77, 0.75, 0.73, 0.71)}, {"E3.1c"}),
    ({"accuracy": (*ACCURACY[:-1], 0.8)}, {"E3.1d"}),
    ({"test": V_TEST[::-1]}, {"E3.3"}),
    # The first layer drops, more than the others or just too much.
    ({"first": (0.9, 0.9, 0.9, 0.9, 0.9, 0.2, 0.1, 0.1)}, {"E3.4", "E3.4b"}),
    ({"first": (*FIRST_LAYER[:-1], FIRST_LAYER[0] - 0.01)}, {"E3.4b"}),
  ],
)
def test_each_claim_fails_where_its_phenomenon_is_absent_from_one_seed(absent, items):
  # Of means over seeds one can be outvoted: all the seeds are without it.
  assert failing(judged(curves(**absent))) == items
  assert failing(judged(curves(), curves(**absent))) >= items - {"E3.3", "E3.4"}


def test_without_runs_nothing_holds_and_all_is_drawn():
  for runs in ([], [run("a", {})]):
    empty = Results([Cell("a", {})], runs)
    assert failing(e3b.claims(empty)) == ITEMS
    assert e3b.table(empty).rows[0][0] == "a"
    assert len(drawn(e3b.figures(empty))) == 4


def test_the_table_has_no_ceiling_and_figures_have_none():
  made = Results([Cell("a", {})], [run("a", curves(), 0, EPOCHS)])
  table = e3b.table(made)
  assert np.isnan([row[table.columns.index("ceiling")] for row in table.rows]).all()
  figures = e3b.figures(made)
  assert set(figures) == {"e3b_transfer", "e3b_scatter", "e3b_layers", "e3b_probes"}
  labels = [line.get_label() for f in figures.values() for axes in f.axes for line in axes.lines]
  assert "probe accuracy, novel classes" in labels and "ceiling at collapse" not in labels


def test_what_v_does_once_the_probe_is_at_its_floor_does_not_count():
  last = (0.62, 0.79, 0.75, 0.70, 0.66, 0.60, 0.61, 0.60)  # at its floor from the sixth on
  test = (30.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.7, 0.9)
  made = Results([Cell("a", {})], [run("a", curves(last=last, test=test), 0, EPOCHS)])
  (claim,) = (claim for claim in e3b.claims(made) if claim.item == "E3.3")
  assert claim.measured == 1
  table = e3b.table(made)
  row = dict(zip(table.columns, table.rows[0], strict=True))
  assert row["ρ with V(test) since"] < 1
