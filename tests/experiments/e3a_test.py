import csv
import math

import numpy as np
import pytest

from nc_jax.experiments import claims, e3a, transfer
from nc_jax.experiments.results import Cell, Results
from tests.experiments import e3_worlds
from tests.experiments.e3_worlds import ACCURACY, EPOCHS, FIRST_LAYER, V_TEST, shifted
from tests.experiments.made_up import drawn, run

ITEMS = {"E3.1", "E3.1b", "E3.1c", "E3.1d", "E3.2", "E3.2b", "E3.2c", "E3.3", "E3.4"}
FIGURES = {"e3a_transfer", "e3a_scatter", "e3a_layers", "e3a_probes"}
LAST = (0.49, 0.65, 0.72, 0.71, 0.52, 0.27, 0.24, 0.23)
CEILING = ("test", "penultimate", "probe/fine/ceiling")
KNN = ("test", "penultimate", "probe/fine/knn/5")


def curves(last=LAST, ceiling=0.2, others=(), **changes):
  others = {CEILING: ceiling} | dict(others)
  return e3_worlds.curves("fine", last, others=others, **changes)


def results(*seeds, epochs=EPOCHS, **cell):
  runs = [run("a", curves, seed, epochs) for seed, curves in enumerate(seeds)]
  return Results([Cell("a", {}, **cell)], runs)


def failing(found):
  return {claim.item for claim in found if not claim.passed}


def test_every_claim_holds_of_the_digits_as_measured():
  other = curves(last=shifted(LAST, 0.02))
  found = {claim.item: claim for claim in e3a.claims(results(curves(), other))}
  assert found.keys() == ITEMS and not failing(found.values())
  assert found["E3.1"].seeds == [5, 5]
  np.testing.assert_allclose(found["E3.1b"].measured, 5 / 300)
  np.testing.assert_allclose(found["E3.1c"].seeds, [0.72 - 0.23] * 2)
  np.testing.assert_allclose(found["E3.1d"].seeds, [0.93 - 0.89] * 2)
  np.testing.assert_allclose(found["E3.2"].seeds, [0.23 - 0.49] * 2)
  for item in ("E3.2b", "E3.2c"):
    np.testing.assert_allclose(found[item].measured, (0.03 + 0.05) / 2)
    assert not found[item].seeds
  assert found["E3.3"].measured == 1 and not found["E3.3"].seeds
  assert "(ceiling 0.200)" in found["E3.1c"].text


@pytest.mark.parametrize(
  ("absent", "items"),
  [
    # Worse from the first step on.
    ({"last": (0.75, *LAST[1:])}, {"E3.1"}),
    # The best is late: at 150 of 300 epochs, or at the end, where nothing has been lost.
    ({"last": (0.3, 0.4, 0.45, 0.45, 0.5, 0.5, 0.6, 0.25)}, {"E3.1b"}),
    (
      {"last": (0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.85)},
      {"E3.1b", "E3.1c", "E3.2", "E3.2c", "E3.3", "E3.4"},
    ),
    # It falls by less than 0.2, and stays above the untrained network's.
    (
      {"last": (0.49, 0.65, 0.72, 0.71, 0.68, 0.62, 0.6, 0.56)},
      {"E3.1c", "E3.2", "E3.2c"},
    ),
    # The coarse task is lost too.
    ({"accuracy": (*ACCURACY[:-1], 0.8)}, {"E3.1d"}),
    # Below the ceiling, and far above it.
    ({"ceiling": 0.3}, {"E3.2b"}),
    ({"ceiling": 0.1}, {"E3.2c"}),
    ({"ceiling": math.nan}, {"E3.2b", "E3.2c"}),
    # The test set spreads while the probe gets worse.
    ({"test": V_TEST[::-1]}, {"E3.3"}),
    ({"test": (1,) * len(EPOCHS)}, {"E3.3"}),
    # Every layer loses as much as the last, or the first the most.
    ({"first": LAST}, {"E3.4"}),
    ({"first": (0.9, 0.9, 0.9, 0.9, 0.9, 0.2, 0.1, 0.1)}, {"E3.4"}),
  ],
)
def test_each_claim_fails_where_its_phenomenon_is_absent(absent, items):
  assert failing(e3a.claims(results(curves(**absent)))) == items


def test_one_seed_is_enough_to_fail():
  found = e3a.claims(results(curves(), curves(accuracy=(*ACCURACY[:-1], 0.8)), curves()))
  assert failing(found) == {"E3.1d"}


def test_a_negative_cell_must_lose_nothing():
  flat = curves(last=FIRST_LAYER)
  for world, expected in ((flat, True), (curves(), False)):
    cells = [Cell("a", {}), Cell("plain", {}, negative=True)]
    both = Results(cells, [run("a", curves(), 0, EPOCHS), run("plain", world, 0, EPOCHS)])
    assert claims.verdict(e3a.claims(both), cells).passed is expected


def test_the_table_has_every_probe_of_the_last_layer_and_the_headline_of_the_others(tmp_path):
  headline = ("test", "penultimate", "probe/fine/ridge/0.001")
  no_probes = {
    (*headline[:2], f"{headline[2]}/low"): 0.2,
    (*headline[:2], f"{headline[2]}/high"): 0.26,
    (*CEILING[:2], f"{CEILING[2]}/low"): 0.1,
    ("test", "penultimate", "probe/held_out/knn/5"): 0.9,  # but of another target
  }
  knn = {KNN: e3_worlds.at(shifted(LAST, -0.1))}
  worlds = [curves(last=LAST, others=knn | no_probes), curves(last=shifted(LAST, 0.04), others=knn)]
  table = e3a.table(results(*worlds))
  table.to_csv(tmp_path / "table.csv")
  with (tmp_path / "table.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert [(row["layer"], row["probe"]) for row in rows] == [
    ("penultimate", "ridge/0.001"),
    ("penultimate", "knn/5"),
    ("layer3", "ridge/0.001"),
    ("layer2", "ridge/0.001"),
    ("layer1", "ridge/0.001"),
  ]
  ridge, knn = ({name: value for name, value in row.items()} for row in rows[:2])
  number = lambda row, name: pytest.approx(float(row[name]), abs=1e-9)
  assert [number(ridge, f"final{end}") for end in ("", " min", " max")] == [0.25, 0.23, 0.27]
  assert number(ridge, "untrained") == 0.51 and number(ridge, "best") == 0.74
  assert number(ridge, "best epoch") == 5 and number(ridge, "final epoch") == 300
  assert number(ridge, "drop") == 0.49
  assert number(knn, "best") == 0.62 and number(knn, "final") == 0.13
  assert {float(row["ceiling"]) for row in rows} == {0.2}
  assert "0.250 (0.230 to 0.270)" in table.to_markdown()


@pytest.mark.parametrize("layer", ["penultimate", "logits"])
def test_the_ceiling_is_found_with_the_features_or_with_the_logits(layer):
  world = {where: f for where, f in curves().items() if where != CEILING}
  made = results(world | {("test", layer, CEILING[2]): 0.25})
  assert transfer.ceiling(made, "a", "fine").final == [0.25]
  assert np.isnan(transfer.ceiling(results(world), "a", "fine").final).all()


def test_the_best_of_a_curve_with_holes_is_its_best_number():
  accuracy, final = np.array([[0.3, np.nan, 0.4], [np.nan] * 3]), np.array([0.1, np.nan])
  along = transfer.Course(np.array([0, 1, 2]), accuracy, final)
  np.testing.assert_equal(along.best, [0.4, np.nan])
  np.testing.assert_equal(along.best_epoch, [2, np.nan])
  np.testing.assert_allclose(along.drop, [0.3, np.nan])
  np.testing.assert_equal(along.untrained, [0.3, np.nan])


def test_the_figures_show_the_curves():
  world = curves(others={KNN: 0.21})
  figures = e3a.figures(results(world, curves(last=shifted(LAST, 0.02))))
  assert figures.keys() == FIGURES
  lines = {
    line.get_label(): line.get_xydata()
    for axes in figures["e3a_transfer"].axes
    for line in axes.lines
  }
  np.testing.assert_allclose(lines["probe accuracy, fine classes"][2], [5, 0.73])
  np.testing.assert_allclose(lines["V(test)"][-1], [300, 0.28])
  np.testing.assert_allclose(lines["test accuracy, training task"][-1], [300, 0.93])
  np.testing.assert_allclose(lines["ceiling at collapse"][:, 1], 0.2)

  (points,) = figures["e3a_scatter"].axes[0].collections
  assert len(points.get_offsets()) == 2 * len(EPOCHS)
  np.testing.assert_allclose(points.get_offsets()[7], [0.28, 0.23])
  np.testing.assert_allclose(points.get_array()[:8], EPOCHS)

  image = figures["e3a_layers"].axes[0].images[0].get_array()
  np.testing.assert_allclose(image[-1], shifted(LAST, 0.01))  # the last layer on top
  names = [text.get_text() for text in figures["e3a_layers"].axes[0].get_yticklabels()]
  assert names == list(e3_worlds.LAYERS)

  _, labels = figures["e3a_probes"].axes[0].get_legend_handles_labels()
  assert labels == ["ridge/0.001", "ceiling at collapse"]  # the second seed lacks the other


def test_twelve_cells_curves_with_holes_and_runs_that_failed_are_drawn():
  holes = curves(last=[math.nan, *LAST[1:-1], math.nan], test=[math.inf, 0, *V_TEST[2:]])
  cells = [Cell(f"cell {i}", {}) for i in range(12)]
  runs = [run("cell 0", holes, 0, EPOCHS), run("cell 0", curves(), 1, (0, 5, 300))]
  runs += [run("cell 1", curves(), failed="loss nan at step 31", epochs=EPOCHS)]
  runs += [run("cell 2", {}, epochs=EPOCHS), run("cell 3", curves(), epochs=(0,))]
  made = Results(cells, runs)
  assert {claim.cell for claim in e3a.claims(made)} == {cell.name for cell in cells}
  assert not any(claim.passed for claim in e3a.claims(made) if claim.cell in ("cell 1", "cell 2"))
  assert {row[0] for row in e3a.table(made).rows} == {cell.name for cell in cells}
  images = drawn(e3a.figures(made))
  assert images.keys() == FIGURES
  assert all(image.startswith(b"\x89PNG") for image in images.values())
