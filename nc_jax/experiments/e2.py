"""E2: is the gap between train and test collapse a matter of too little data?"""

from collections.abc import Iterator
from functools import partial

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from nc_jax.depth import rank_correlation
from nc_jax.experiments import panels
from nc_jax.experiments.claims import Claim, Table
from nc_jax.experiments.penultimate import ERROR, V_WEAK, V, accuracy_column, column, curve, final
from nc_jax.experiments.results import Cell, Results
from nc_jax.experiments.statistics import ratio
from nc_jax.figure_style import BLACK, BLUE, ORANGE

TITLE = "Test collapse against the size of the train set"
QUESTION = "Is the gap between train and test collapse a matter of too little data?"
CLAIM = (
  "More data bring test collapse nearer but never there; and when the number of updates is held, "
  "they bring less train collapse: the two move in opposite directions."
)
CAPTIONS = {  # of each figure: what stands below it, and what it shows, for those who do not see it
  "e2_size": (
    "At the end of training, against the number n of train examples",
    "A panel per budget with V(train), V(test), V_weak(test) and test error against n, logarithmic",
  ),
  "e2_phase": (
    "Where training ends for each n, and thin, how it went there",
    "V(test) against V(train) at the end of training, a point per n, for both budgets",
  ),
}

UPDATES, EPOCHS, BOTH = "updates", "epochs", "both"
BUDGETS = {UPDATES: "updates held", EPOCHS: "epochs held"}
_LINES = (  # label, split, key, colour, dashes
  ("V(test)", "test", V, ORANGE, "-"),
  ("V_weak(test), nearest train mean", "test", V_WEAK, ORANGE, "--"),
  ("V(train)", "train", V, BLUE, "-"),
  ("test error", "test", ERROR, BLACK, ":"),
)


def claims(results: Results) -> list[Claim]:
  """Over the sizes n of the train set, at the end of training, on means over seeds.

  A cell says values = {"n": int, "budget": "updates" | "epochs" | "both"}: whether the number of
  updates or that of epochs is the same at every n. One of the sizes may serve both.
  """
  return [claim for budget in _budgets(results) for claim in _of_budget(results, budget)]


def _of_budget(results: Results, budget: str) -> Iterator[Claim]:
  claim = partial(Claim, cell=f"every n, {BUDGETS[budget]}")
  cells = cells_of(results, budget)
  n = [cell.values["n"] for cell in cells]
  over_n = lambda split, key: np.array(
    [_mean(final(results, cell.name, split, key)) for cell in cells]
  )
  train, test, error = over_n("train", V), over_n("test", V), over_n("test", ERROR)
  train_errors = [final(results, cell.name, "train", ERROR) for cell in cells]

  yield claim(
    item="E2.1",
    text="V(test) decreases monotonically in n: V(test) / V(test) at the next smaller n, the "
    "largest, means over seeds",
    measured=_most(ratio(test[1:], test[:-1])),
    relation="<=",
    threshold=1,
  )
  yield claim(
    item="E2.1b",
    text="V(test) stays above 0 at every n: the smallest, means over seeds",
    measured=-_most(-test),
    relation=">=",
    threshold=1e-3,
  )
  yield claim(
    item="E2.2",
    text="train accuracy is 1 at every n: the largest train error over n and seeds",
    measured=_most([_most(errors) for errors in train_errors]),
    relation="<=",
    threshold=0.001,
  )
  if budget != UPDATES:
    return  # with the epochs held, more data are more updates too, and collapse has two causes
  for item, text, x, y, relation, threshold in (
    ("E2.2b", "V(train) increases with n", n, train, ">=", 0.9),
    ("E2.2c", "V(test) decreases with n, the opposite direction", n, test, "<=", -0.9),
    ("E2.3", "V(test) falls with the test error over n", error, test, ">=", 0.9),
    ("E2.3b", "V(train) rises as the test error falls over n", error, train, "<=", -0.9),
  ):
    yield claim(
      item=item,
      text=f"{text}: Spearman's ρ of the two, means over seeds",
      measured=rank_correlation(x, y),
      relation=relation,
      threshold=threshold,
    )


def table(results: Results) -> Table:
  """A row per cell, at the end of training."""
  rows = []
  for cell in results.cells:
    row = {"n": cell.values["n"], "budget": cell.values["budget"]}
    row |= {"epochs": cell.config["optim"]["total_epochs"], "seeds": len(results.seeds(cell.name))}
    for split in ("train", "test"):
      row |= accuracy_column(results, cell.name, split)
    for name, split, key in (
      ("V(train)", "train", V),
      ("V(test)", "test", V),
      ("V_weak(test)", "test", V_WEAK),
    ):
      row |= column(results, cell.name, name, split, key)
    rows.append(row)
  return Table.of(rows)


def figures(results: Results) -> dict[str, Figure]:
  return {"e2_size": _size(results), "e2_phase": _phase(results)}


def _size(results: Results) -> Figure:
  """What is left at the end of training, against n."""
  budgets = _budgets(results)
  figure, axes_of = panels.grid(len(budgets), width=3.8, height=3.2, sharey=True)
  for axes, budget in zip(axes_of, budgets, strict=True):
    cells = cells_of(results, budget)
    n = [cell.values["n"] for cell in cells]
    for label, split, key, colour, dashes in _LINES:
      values = _side_by_side([final(results, cell.name, split, key) for cell in cells])
      style = {"color": colour, "linestyle": dashes, "marker": "o", "markersize": 4}
      panels.line_in_range(axes, n, values, label=label, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _sizes_on_x(axes, n)
    axes.set_title(BUDGETS[budget])
  panels.label_left(axes_of, "at the end of training")
  panels.legend_above(figure, axes_of)
  return figure


def _phase(results: Results) -> Figure:
  """V(train) against V(test) at the end, a point per n; thin behind, how each came there."""
  budgets = _budgets(results)
  figure, axes_of = panels.grid(len(budgets), width=4.2, height=3.8, sharex=True, sharey=True)
  sizes = sorted({cell.values["n"] for cell in _positive(results)})
  shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(sizes)))
  colour_of = dict(zip(sizes, shades, strict=True))
  for axes, budget in zip(axes_of, budgets, strict=True):
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends = []
    for cell in cells_of(results, budget):
      n, colour = cell.values["n"], colour_of[cell.values["n"]]
      x, y = (_mean_curve(results, cell.name, split) for split in ("train", "test"))
      epochs = sorted(x.keys() & y.keys())
      path = np.array([(x[epoch], y[epoch]) for epoch in epochs]).reshape(-1, 2)
      axes.plot(*path.T, color=colour, linewidth=0.7, alpha=0.6)
      end = [_mean(final(results, cell.name, split, V)) for split in ("train", "test")]
      ends.append(end)
      axes.plot(*end, "o", color=colour, markersize=8, label=f"n = {n:,}", zorder=3)
    axes.plot(*np.transpose(ends), color="0.3", linewidth=1.4, zorder=2)
    axes.set_title(BUDGETS[budget])
    axes.set_xlabel("V(train)")
  for axes in axes_of:
    panels.diagonal(axes, "V(test) = V(train)")
  panels.label_left(axes_of, "V(test)")
  panels.legend_above(figure, axes_of)
  return figure


def cells_of(results: Results, budget: str) -> list[Cell]:
  """Those of a budget, from the smallest n to the largest; those of both budgets are in each."""
  wanted = (budget, BOTH)
  cells = [cell for cell in _positive(results) if cell.values["budget"] in wanted]
  return sorted(cells, key=lambda cell: cell.values["n"])


def _positive(results: Results) -> list[Cell]:
  return [cell for cell in results.cells if not cell.negative]


def _budgets(results: Results) -> list[str]:
  """Those that any cell has, in the order of BUDGETS."""
  return [budget for budget in BUDGETS if cells_of(results, budget)]


def _mean(seeds: np.ndarray) -> float:
  return float(seeds.mean()) if seeds.size else np.nan


def _most(values) -> float:
  """The largest; nan if one is nan, or if there are none."""
  return float(np.max(values)) if len(values) else np.nan


def _mean_curve(results: Results, cell: str, split: str) -> dict[int, float]:
  epochs, values = curve(results, cell, split, V)
  return dict(zip(epochs.tolist(), panels.over_seeds(values)[0], strict=True))


def _side_by_side(columns: list[np.ndarray]) -> np.ndarray:
  """[S, N] from N columns; nan below those of fewer seeds."""
  table = np.full((max(map(len, columns), default=0), len(columns)), np.nan)
  for i, column_of_seeds in enumerate(columns):
    table[: len(column_of_seeds), i] = column_of_seeds
  return table


def _sizes_on_x(axes, sizes: list[int]):
  axes.set_xticks(sizes, [f"{n:,}" for n in sizes], rotation=45 if len(sizes) > 4 else 0)
  axes.minorticks_off()
  axes.set_xlabel("train examples n")
