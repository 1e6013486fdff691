import csv
import math

import numpy as np
import pytest

from nc_jax.experiments import bounds, claims, e1
from nc_jax.experiments.results import Cell, Results
from tests.experiments.made_up import drawn, run

OPTIM = {"optim": {"total_epochs": 300, "decay_at": None}}
ITEMS = {
  "E1.1", "E1.1b", "E1.1c", "E1.2", "E1.2b", "E1.2c", "E1.2d", "E1.3", "E1.4",
}  # fmt: skip


def fall(epoch):
  """V(train): 15 / (1 + epoch), and a tenth of it after either decay, at 100 and at 200."""
  return 15 / (1 + epoch) * 0.1 ** ((epoch > 100) + (epoch > 200))


def curves(train=fall, test=lambda e: fall(e) + 0.15, weak=0.1, pinv=None, vci=None, error=None):
  """What E1 reads. The test set stops at 0.15, a third of which lies near no mean at all."""
  curves = {
    ("train", "penultimate", "nc1/trace_ratio"): train,
    ("test", "penultimate", "nc1/trace_ratio"): test,
    ("test", "penultimate", "weak/second_moment"): weak,
    ("train", "penultimate", "nc1/pinv"): pinv or (lambda e: train(e) / 2),
    ("train", "penultimate", "nc1/cdnv"): lambda e: train(e) / 3,
    ("train", "penultimate", "nc1/vci"): vci or (lambda e: train(e) / (1 + train(e))),
    ("train", "logits", "error/classifier"): error or (lambda e: 0 if e > 100 else 1 / (1 + e)),
    ("test", "logits", "error/classifier"): 0.07,
  }
  return curves


def plain(epoch):
  """Without batch norm V falls to 0.33 and stays, on train and test alike."""
  return 0.33 + 2 / (1 + epoch)


PLAIN = curves(train=plain, test=lambda e: 1.5 * plain(e), weak=lambda e: 1.2 * plain(e))


def judged(*seeds, config=OPTIM):
  cell = Cell("a", config)
  return e1.claims(Results([cell], [run("a", curves, seed) for seed, curves in enumerate(seeds)]))


def failing(found):
  return {claim.item for claim in found if not claim.passed}


def test_every_claim_holds_where_train_collapses_and_test_does_not():
  found = {claim.item: claim for claim in judged(curves(), curves(test=lambda e: fall(e) + 0.2))}
  assert found.keys() == ITEMS and not failing(found.values())
  end = 15 / 301 / 100
  np.testing.assert_allclose(found["E1.1"].seeds, 7.5 / end)
  np.testing.assert_allclose(found["E1.1b"].measured, end / (15 / 108 / 10))
  # At 98 and 188, observed just before the decays, and at the end.
  np.testing.assert_allclose(found["E1.1c"].measured, max(0.1 * 99 / 189, 0.1 * 189 / 301))
  np.testing.assert_allclose(found["E1.2"].seeds, [1 + 0.15 / end, 1 + 0.2 / end])
  assert found["E1.2"].measured == found["E1.2"].seeds[0]  # the worst seed
  np.testing.assert_allclose(found["E1.3"].measured, 0.1 / end)
  early, late = 15 / 99, end
  np.testing.assert_allclose(
    found["E1.2d"].seeds[0],
    math.log((early + 0.15) / (late + 0.15)) / math.log(early / late),
  )
  assert found["E1.4"].measured == pytest.approx(1)


@pytest.mark.parametrize(
  ("absent", "items"),
  [
    # V(train) was low from the start, so there is nothing for V(test) to follow.
    (curves(train=lambda e: min(fall(e), 0.04)), {"E1.1", "E1.2c"}),
    # Train error 0 at the end alone, or never.
    (curves(error=lambda e: 0 if e == 300 else 0.1), {"E1.1b"}),
    (curves(error=lambda e: 0.1), {"E1.1b"}),
    # Nothing gained from the first decay.
    (curves(train=lambda e: fall(98 if 98 < e < 200 else e)), {"E1.1c"}),
    # V(test) nearly reaches V(train), late: it does not flatten.
    (curves(test=lambda e: fall(e) + 0.001), {"E1.2", "E1.2d"}),
    # V(train) stops at 0.021.
    (
      curves(train=lambda e: fall(e) + 0.021, test=lambda e: fall(e) + 1, weak=1),
      {"E1.1b", "E1.2b"},
    ),
    # V(test) never falls; falls along all the way; test features sit on the means, wrong or right.
    (curves(test=lambda e: 0.3), {"E1.2c"}),
    (curves(test=lambda e: 40 * fall(e)), {"E1.2d"}),
    (curves(weak=0.001), {"E1.3"}),
    # One of the other measures of NC1 rises.
    (curves(vci=lambda e: 1 / fall(e)), {"E1.4"}),
    (curves(pinv=lambda e: 1), {"E1.4"}),
  ],
)
def test_each_claim_fails_where_its_phenomenon_is_absent_from_one_seed(absent, items):
  assert failing(judged(absent)) == items
  assert failing(judged(curves(), absent, curves())) == items


def test_a_network_without_batch_norm_fails_and_must():
  cells = [Cell("a", OPTIM), Cell("plain", OPTIM, negative=True)]
  good, bad = run("a", curves()), run("plain", PLAIN)
  both = Results(cells, [good, bad])
  assert {"E1.1", "E1.2", "E1.2b", "E1.2d", "E1.3"} <= failing(
    claim for claim in e1.claims(both) if claim.cell == "plain"
  )
  assert claims.verdict(e1.claims(both), cells).passed
  collapsed = Results(cells, [good, run("plain", curves())])
  assert not claims.verdict(e1.claims(collapsed), cells).passed


def test_runs_that_failed_or_never_began_satisfy_nothing():
  failed = run("a", curves(), failed="loss nan at step 31")
  for runs in ([], [failed], [run("a", {}), failed._replace(seed=1)]):
    results = Results([Cell("a", OPTIM)], runs)
    assert failing(e1.claims(results)) == ITEMS
    assert e1.table(results).rows[0][0] == "a"
    assert set(drawn(e1.figures(results))) == {"e1_collapse", "e1_phase"}


def test_decays_are_those_of_the_schedule():
  assert e1.decay_epochs({"total_epochs": 300}) == [100, 200]
  assert e1.decay_epochs({"total_epochs": 300, "schedule": "step", "decay_at": (0.5,)}) == [150]
  assert e1.decay_epochs({"total_epochs": 300, "schedule": "cosine", "decay_at": None}) == []
  cosine = {"optim": {"total_epochs": 300, "schedule": "cosine"}}
  assert {claim.item for claim in judged(curves(), config=cosine)} == ITEMS - {"E1.1c"}


def test_a_decay_that_nobody_observed_was_not_seen_to_deepen():
  sparse = run("a", curves(), epochs=(0, 1, 50, 300))
  results = Results([Cell("a", OPTIM)], [sparse])
  assert failing(e1.claims(results)) >= {"E1.1c"}


def test_the_table_gives_means_ranges_and_bounds(tmp_path):
  factors = {
    ("test", "logits", "error/classifier"): [0.75, 1.125],
    ("train", "penultimate", "nc1/trace_ratio"): [0.5, 2],
    ("test", "penultimate", "nc1/trace_ratio"): [1, 1],
  }
  runs = [
    run("a", curves(weak=0.1), factors=factors),
    run("a", curves(weak=0.3, error=lambda e: 0 if e > 200 else 0.1), seed=1, factors=factors),
  ]
  table = bounds.of_table(e1.table, Results([Cell("a", OPTIM)], runs))
  table.to_csv(tmp_path / "table.csv")
  with (tmp_path / "table.csv").open() as file:
    (row,) = csv.DictReader(file)
  number = lambda column: float(row[column])
  assert (row["cell"], row["seeds"], number("train accuracy")) == ("a", "2", 1)
  assert [number(f"V_weak(test){end}") for end in ("", " min", " max")] == [0.2, 0.1, 0.3]
  assert number("test accuracy low") == pytest.approx(1 - 1.125 * 0.07)
  assert number("test accuracy high") == pytest.approx(1 - 0.75 * 0.07)
  assert number("V(test)/V(train)") == pytest.approx(1 + 0.15 / (15 / 301 / 100))
  assert number("V(test)/V(train) low") == pytest.approx(0.5 * number("V(test)/V(train)"))
  assert number("V(test)/V(train) high") == pytest.approx(2 * number("V(test)/V(train)"))
  assert number("NC1(train)") == pytest.approx(15 / 301 / 100 / 2)
  assert math.isnan(number("CDNV(test)"))  # not measured here
  assert [number(f"terminal epoch{end}") for end in (" min", " max")] == [107, 206]


def test_a_panel_per_cell_shows_its_curves_and_its_terminal_phase():
  cells = [Cell(f"cell {i}", OPTIM) for i in range(5)]
  results = Results(cells, [run(cell.name, curves(), seed) for cell in cells for seed in (0, 1)])
  figure = e1.figures(results)["e1_collapse"]
  assert [axes.get_title() for axes in figure.axes] == [cell.name for cell in cells]
  lines = {line.get_label(): line.get_xydata() for line in figure.axes[4].lines}
  np.testing.assert_allclose(lines["V(train)"][-1], [300, 15 / 301 / 100])
  np.testing.assert_allclose(lines["V(test)"][0], [0, 15.15])
  (shaded,) = [patch for patch in figure.axes[4].patches if "terminal" in patch.get_label()]
  assert shaded.get_extents().width > 0 and shaded.get_xy()[0] == 107


def test_the_phase_plot_begins_at_the_ring_and_ends_at_the_disc():
  results = Results([Cell("a", OPTIM)], [run("a", curves())])
  axes = e1.figures(results)["e1_phase"].axes[0]
  path, ring, disc, diagonal = (line.get_xydata() for line in axes.lines)
  np.testing.assert_allclose(ring, [[15, 15.15]])
  np.testing.assert_allclose(disc, [[15 / 301 / 100, 0.15 + 15 / 301 / 100]])
  np.testing.assert_allclose([path[0], path[-1]], [ring[0], disc[0]])
  np.testing.assert_allclose(diagonal[:, 0], diagonal[:, 1])


def test_curves_with_holes_are_drawn():
  holes = curves(
    train=lambda e: {3: math.nan, 4: math.inf, 300: 0.0}.get(e, fall(e)),
    test=lambda e: math.nan,
    weak=math.inf,
    pinv=lambda e: math.nan,
    vci=lambda e: math.nan,
  )
  results = Results([Cell("a", OPTIM)], [run("a", holes), run("a", curves(), 1, epochs=(0, 300))])
  for image in drawn(e1.figures(results)).values():
    assert image.startswith(b"\x89PNG")
  assert "E1.2" in failing(e1.claims(results))
