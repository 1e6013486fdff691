import csv
import math

import numpy as np
import pytest

from nc_jax import depth
from nc_jax.experiments import claims, e4
from nc_jax.experiments.results import Cell, Results
from tests.experiments.made_up import EPOCHS, drawn, run

ITEMS = {
  "E4.1", "E4.1b", "E4.1c", "E4.2", "E4.2b", "E4.3", "E4.3b", "E4.4", "E4.4b", "E4.4c",
}  # fmt: skip
FIGURES = {"e4_heatmap", "e4_depth", "e4_cascade"}

# V(train) of the stand-in's eight layers as measured; between these epochs it is read off the line.
MEASURED = {
  0: (17.6, 21.2, 26.2, 31.1, 39.4, 47.2, 54.7, 63.4),
  3: (8.8, 5.3, 3.3, 2.3, 1.6, 1.1, 0.90, 0.65),
  30: (5.2, 1.8, 0.56, 0.25, 0.18, 0.15, 0.14, 0.12),
  150: (4.5, 0.73, 0.14, 0.057, 0.034, 0.027, 0.020, 0.016),
  300: (4.4, 0.76, 0.12, 0.040, 0.019, 0.012, 0.0051, 0.0035),
}
V_TEST = (5.2, 1.15, 0.35, 0.22, 0.18, 0.17, 0.15, 0.14)  # at epoch 300
NAMES = (*(f"layer{number}" for number in range(1, 8)), "penultimate")


def along(values):
  """Curves of the layers from {epoch: [layers]}: lines in log V over log(1 + epoch)."""
  known = np.log1p(list(values))
  return [
    lambda e, column=column: np.exp(np.interp(math.log1p(e), known, np.log(column)))
    for column in zip(*values.values(), strict=True)
  ]


def curves(train=MEASURED, test=V_TEST, others=()):
  """What E4 reads; V(test) is as V(train) until the end, where `test` is."""
  before = {epoch: values for epoch, values in train.items() if epoch < 300}
  found = {}
  for name, of_train, of_test in zip(
    NAMES, along(train), along(before | {300: test}), strict=False
  ):
    found |= {
      ("train", name, "nc1/trace_ratio"): of_train,
      ("test", name, "nc1/trace_ratio"): of_test,
    }
  return found | dict(others)


def judged(*seeds, epochs=EPOCHS):
  runs = [run("a", curves, seed, epochs) for seed, curves in enumerate(seeds)]
  return e4.claims(Results([Cell("a", {})], runs))


def failing(found):
  return {claim.item for claim in found if not claim.passed}


def with_end(**layers):
  """The measured world with other numbers of some layers at the end: {"layer1": 0.5}."""
  end = [layers.get(name, value) for name, value in zip(NAMES, MEASURED[300], strict=True)]
  return MEASURED | {300: end}


def test_every_claim_holds_of_the_digits_as_measured():
  found = {claim.item: claim for claim in judged(curves(), curves())}
  assert found.keys() == ITEMS and not failing(found.values())
  assert found["E4.1"].seeds == [1, 1] and found["E4.1b"].seeds == [-1, -1]
  assert found["E4.1c"].seeds == [1, 1]  # on the line from epoch 0 to epoch 3
  assert found["E4.2"].measured < -0.95 and found["E4.2b"].measured == 0
  assert 0.9 < found["E4.3"].measured < 0.97
  assert found["E4.3b"].measured == pytest.approx(4.4)
  fall = math.log(0.18 / 0.14) / math.log(0.019 / 0.0035)
  assert found["E4.4"].measured == pytest.approx(fall)
  assert found["E4.4b"].measured == 1
  assert found["E4.4c"].measured == pytest.approx(5.2 / 4.4)


def test_the_threshold_is_one_that_most_layers_cross():
  assert np.sum(np.array(MEASURED[300]) < e4.THRESHOLD) == 6


UPWARD = {epoch: values[::-1] for epoch, values in MEASURED.items()}  # collapse from the input


@pytest.mark.parametrize(
  ("absent", "items"),
  [
    # Untrained, V falls with depth: then there is nothing to flip.
    ({"train": MEASURED | {0: MEASURED[0][::-1]}}, {"E4.1", "E4.1c"}),
    # The order flips late.
    (
      {"train": MEASURED | {3: (8, 8.1, 8.2, 8.3, 8.4, 8.5, 8.6, 8.7)}},
      {"E4.1c"},
    ),
    # It flips, and the last layer loses its collapse at the end.
    ({"train": with_end(penultimate=0.3)}, {"E4.1b", "E4.3", "E4.4", "E4.4b"}),
    # All layers cross together, or the first ones first.
    ({"train": MEASURED | {3: (8,) * 8, 30: (0.1,) * 8}}, {"E4.1c", "E4.2"}),
    # The last layer crosses later than the one before: no longer monotone, still in order.
    (
      {"train": MEASURED | {30: (*MEASURED[30][:6], 0.14, 0.35)}},
      {"E4.2b"},
    ),
    # No layer crosses.
    (
      {"train": {e: np.multiply(v, 200) for e, v in MEASURED.items()}, "test": (2000,) * 8},
      {"E4.2", "E4.2b", "E4.4c"},
    ),
    # A step: the upper half collapses alone, and at once.
    (
      {
        "train": MEASURED | {300: (4.4, 4.39, 4.38, 4.37, 0.0036, 0.00359, 0.00358, 0.0035)},
        "test": (5.2, 5.1, 5, 4.9, 0.14, 0.14, 0.14, 0.14),
      },
      {"E4.3", "E4.4b"},
    ),
    # The first layer collapses as well.
    ({"train": with_end(layer1=0.9)}, {"E4.3b", "E4.4c"}),
    # V(test) falls along with depth, or rises; the gap is there from the first layer on.
    ({"test": np.multiply(MEASURED[300], 1.5)}, {"E4.4", "E4.4b"}),
    ({"test": np.multiply(MEASURED[300], (40, 29, 14, 9.5, 5.5, 2.9, 1.5, 1.2))}, {
      "E4.4", "E4.4b", "E4.4c",
    }),
    ({"test": (9, *V_TEST[1:])}, {"E4.4c"}),
  ],
)  # fmt: skip
def test_each_claim_fails_where_its_phenomenon_is_absent(absent, items):
  found = failing(judged(curves(**absent)))
  assert found == items
  # One seed is enough, but for the mean curve over seeds.
  assert failing(judged(curves(), curves(**absent), curves())) >= found - {"E4.2b"}


def test_collapse_from_the_input_is_no_cascade():
  found = {claim.item: claim for claim in judged(curves(UPWARD, V_TEST[::-1]))}
  assert failing(found.values()) == ITEMS - {"E4.3"}
  assert found["E4.2"].measured > 0.9 and found["E4.2b"].measured > 2
  assert math.isnan(found["E4.4"].measured)  # V(train) rises over the upper half


def test_v_of_test_that_rises_with_depth_is_saturated_too():
  assert "E4.4" not in failing(judged(curves(test=(*V_TEST[:4], 0.18, 0.19, 0.2, 0.21))))


def test_without_the_untrained_network_its_order_is_unknown():
  assert failing(judged(curves(), epochs=EPOCHS[5:])) >= {"E4.1", "E4.1c"}


def test_a_negative_cell_must_not_cascade():
  for world, expected in ((curves(UPWARD, V_TEST[::-1]), True), (curves(), False)):
    cells = [Cell("a", {}), Cell("plain", {}, negative=True)]
    both = Results(cells, [run("a", curves()), run("plain", world)])
    assert claims.verdict(e4.claims(both), cells).passed is expected


def test_the_table_has_a_row_per_layer_and_one_for_the_whole(tmp_path):
  others = {}
  for number, name in enumerate(NAMES):
    others |= {
      ("train", name, "nc4/ncc_error"): (0.6, 0.3, 0.02, 0, 0, 0, 0, 0)[number],
      ("train", name, "rank/numerical"): 128 / 2**number,
      ("test", name, "probe/fine/ridge/0.001"): (0.6, 0.8, 0.9, 0.93, 0.94, 0.95, 0.95, 0.95)[
        number
      ],
    }
  runs = [run("a", curves(others=others)), run("a", curves(with_end(penultimate=0.0045)), 1)]
  table = e4.table(Results([Cell("a", {})], runs))
  table.to_csv(tmp_path / "table.csv")
  with (tmp_path / "table.csv").open() as file:
    rows = {row["layer"]: row for row in csv.DictReader(file)}
  assert list(rows) == ["all", *NAMES]
  number = lambda layer, column: float(rows[layer][column])
  assert number("penultimate", "V(train)") == pytest.approx(0.004)
  assert number("penultimate", "V(train) max") == pytest.approx(0.0045)
  assert number("layer1", "V(test)/V(train)") == pytest.approx(5.2 / 4.4)
  assert math.isnan(number("layer1", "first epoch below 1"))
  assert number("layer4", "first epoch below 0.5") == 16
  assert number("penultimate", "first epoch below 1") == 3
  assert math.isnan(number("all", "V(train)"))  # is a number of a layer
  # The second seed lacks the errors, the ranks and the probes.
  assert math.isnan(number("all", "effective depth")) and math.isnan(
    number("layer1", "rank(train)")
  )

  (first, *_) = e4.table(Results([Cell("a", {})], runs[:1])).rows
  whole = dict(zip(table.columns, first, strict=True))
  assert whole["effective depth"] == 4 and whole["tunnel start (fine)"] == 4  # 0.93 >= 0.9025
  assert whole["cascade score at 0.5"] < -0.95
  assert 0.9 < whole["R² of log V(train)"] < 0.97
  assert 0.3 < whole["V(train) per layer"] < 0.4


def test_the_figures_show_the_curves():
  figures = e4.figures(Results([Cell("a", {})], [run("a", curves()), run("a", curves(), 1)]))
  assert figures.keys() == FIGURES
  train, test = figures["e4_heatmap"].axes[:2]
  assert (train.get_title(), test.get_title()) == ("a\nV(train)", "a\nV(test)")
  image = train.images[0].get_array()
  np.testing.assert_allclose(image[:, -1], MEASURED[300])  # the input below
  np.testing.assert_allclose(test.images[0].get_array()[:, -1], V_TEST)
  assert train.images[0].norm is test.images[0].norm

  train, test = figures["e4_depth"].axes
  lines = {line.get_label(): line.get_ydata() for line in train.lines}
  np.testing.assert_allclose(lines["epoch 0"], MEASURED[0])
  np.testing.assert_allclose(lines["epoch 300"], MEASURED[300])

  (axes,) = figures["e4_cascade"].axes
  lines = {line.get_label(): line.get_ydata() for line in axes.lines}
  never = dict(
    zip((text.get_text() for text in axes.get_yticklabels()), axes.get_yticks(), strict=True)
  )["never"]
  assert never > 300
  assert lines["V(train) < 0.5"][:2].tolist() == [never, never]
  assert lines["V(train) < 0.5"][3] == 16 and lines["V(train) < 1"][-1] == 3


def test_twelve_cells_of_long_names_holes_and_runs_that_failed_are_drawn():
  blocks = [f"stage{s}_block{b}.average" for s in (1, 2, 3, 4) for b in (1, 2)]
  renamed = {(s, blocks[NAMES.index(name)], key): f for (s, name, key), f in curves().items()}
  holes = dict(renamed)
  for where, value in zip(renamed, (math.nan, math.inf, 0.0), strict=False):
    holes[where] = lambda e, value=value, f=renamed[where]: value if e in (0, 3, 300) else f(e)
  one_layer = {where: f for where, f in curves().items() if where[1] == "penultimate"}
  cells = [Cell(f"cell {i}", {}) for i in range(12)]
  runs = [run("cell 0", holes), run("cell 0", renamed, 1, (0, 3, 300))]
  runs += [run("cell 1", curves(), failed="loss nan at step 31"), run("cell 2", {})]
  runs += [run("cell 3", one_layer), run("cell 4", curves(), epochs=(0,))]
  made = Results(cells, runs)
  found = e4.claims(made)
  assert {claim.cell for claim in found} == {cell.name for cell in cells}
  assert not any(claim.passed for claim in found if claim.cell in ("cell 1", "cell 2"))
  assert {row[0] for row in e4.table(made).rows} == {cell.name for cell in cells}
  images = drawn(e4.figures(made))
  names = [text.get_text() for text in e4.figures(made)["e4_depth"].axes[0].get_xticklabels()]
  assert names == [block.removesuffix(".average") for block in blocks]  # the pooling is said once
  assert e4.figures(made)["e4_depth"].axes[0].get_xlabel() == "maps pooled: average"
  assert images.keys() == FIGURES
  assert all(image.startswith(b"\x89PNG") for image in images.values())


def test_depth_along_training_has_a_row_per_seed_and_epoch():
  cell = Cell("a", {})
  results = Results([cell], [run("a", curves(), seed) for seed in (0, 1)])
  table = e4.MORE_TABLES["depth"](results)
  rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
  names, epochs, V_along = e4.layers.curves(results, cell.name, "train", "nc1/trace_ratio")
  assert [(row["seed"], row["epoch"]) for row in rows] == [
    (seed, epoch) for seed in results.seeds(cell.name) for epoch in epochs
  ]
  assert rows[0]["rank correlation of depth and V(train)"] > 0.8
  assert rows[len(epochs) - 1]["rank correlation of depth and V(train)"] < -0.9
  expected = depth.log_linearity(V_along[0, -1]).r_squared
  assert rows[len(epochs) - 1]["R² of log V(train)"] == expected
