"""E1: does the test set collapse when the train set does?"""

from collections.abc import Iterator
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from nc_jax.depth import rank_correlation
from nc_jax.experiments import panels
from nc_jax.experiments.claims import Claim, Table, measured, per_seed
from nc_jax.experiments.penultimate import (
  V_WEAK,
  V,
  accuracy_column,
  column,
  curve,
  final,
  gap_column,
)
from nc_jax.experiments.results import Cell, Results
from nc_jax.experiments.statistics import at_common_epochs, ratio, share_of_fall
from nc_jax.figure_style import BLUE, ORANGE

TITLE = "Train against test collapse along training"
QUESTION = "Does the test set collapse when the train set does?"
CLAIM = (
  "The features of the train set collapse onto their class means, ever more as training goes on; "
  "those of the test set do not, not even onto the means of other classes."
)
CAPTIONS = {  # of each figure: what stands below it, and what it shows, for those who do not see it
  "e1_collapse": (
    "V along training: mean over seeds in the range of them; shaded is the terminal phase",
    "A panel per cell with V(train), V(test) and V_weak(test) against the epoch, both logarithmic",
  ),
  "e1_phase": (
    "The path of each cell from the untrained network (open circle) to the end of training",
    "V(test) against V(train), both logarithmic, one path per cell, and the line where they agree",
  ),
}

OTHER_NC1 = {"NC1": "nc1/pinv", "CDNV": "nc1/cdnv", "VCI": "nc1/vci"}


def claims(results: Results) -> list[Claim]:
  """In each cell by itself, seed by seed; those of a cell without batch norm must fail.

  That V(test) follows at first and then flattens is judged by `share_of_fall`, the fall of
  log V(test) over that of log V(train), before and after the first third of training. The digits
  have 0.7, and then 0.1 (squared error) or 0.3; without batch norm, 0.8 and then 0.7. V(train)
  falls far in both stretches, so that the noise of single epochs matters little. In the last
  third it may rest, and the share would be noise over noise.
  """
  return [claim for cell in results.cells for claim in _of_cell(results, cell)]


def _of_cell(results: Results, cell: Cell) -> Iterator[Claim]:
  claim = partial(per_seed, cell=cell.name)
  epochs, train, test = _train_and_test(results, cell.name)
  begin = min(epochs[epochs >= 1], default=0)  # the first observed epoch after training began
  at_begin = _at(epochs, train, begin)
  end, test_end = (final(results, cell.name, split, V) for split in ("train", "test"))

  yield claim(
    item="E1.1",
    text="V(train) at the first epoch after training began / at the end",
    seeds=ratio(at_begin, end),
    relation=">=",
    threshold=100,
  )
  yield claim(
    item="E1.1b",
    text="inside the terminal phase: V(train) at the end / at the first epoch with train error 0",
    seeds=ratio(end, _at_terminal_epoch(results, cell.name)),
    relation="<=",
    threshold=0.5,
  )
  if decays := decay_epochs(cell.config["optim"]):
    yield claim(
      item="E1.1c",
      text="each decay of the learning rate deepens it: V(train) just before the next decay (or "
      "at the end) / just before this one; the largest over decays",
      seeds=_over_decays(epochs, train, decays),
      relation="<=",
      threshold=0.95,
    )
  yield claim(
    item="E1.2",
    text="V(test) / V(train) at the end: the test set does not collapse",
    seeds=ratio(test_end, end),
    relation=">=",
    threshold=10,
  )
  yield claim(
    item="E1.2b",
    text="V(train) at the end: the train set collapsed",
    seeds=end,
    relation="<=",
    threshold=0.02,
  )
  third = cell.config["optim"]["total_epochs"] / 3
  middle = max(epochs[epochs <= third], default=0)
  for item, text, stretch, relation in (
    ("E1.2c", "follows at first: until", (epochs >= begin) & (epochs <= middle), ">="),
    ("E1.2d", "then flattens: from", epochs >= middle, "<="),
  ):
    yield claim(
      item=item,
      text=f"V(test) {text} a third of the epochs, fall of log V(test) / fall of log V(train)",
      seeds=share_of_fall(test[:, stretch], train[:, stretch]),
      relation=relation,
      threshold=0.5,
    )
  yield claim(
    item="E1.3",
    text="V_weak(test) / V(train) at the end: not even weak collapse",
    seeds=ratio(final(results, cell.name, "test", V_WEAK), end),
    relation=">=",
    threshold=5,
  )
  yield claim(
    item="E1.4",
    text="NC1, CDNV and VCI tell the story of V(train): Spearman's ρ over epochs, the smallest of "
    "the three",
    seeds=_agreement(results, cell.name),
    relation=">=",
    threshold=0.9,
  )


def table(results: Results) -> Table:
  """A row per cell, at the end of training."""
  rows = []
  for cell in results.cells:
    row = {"cell": cell.name, "seeds": len(results.seeds(cell.name))}
    for split in ("train", "test"):
      row |= accuracy_column(results, cell.name, split)
    row |= column(results, cell.name, "V(train)", "train", V)
    row |= column(results, cell.name, "V(test)", "test", V)
    row |= gap_column(results, cell.name)
    row |= column(results, cell.name, "V_weak(test)", "test", V_WEAK)
    for name, key in OTHER_NC1.items():
      for split in ("train", "test"):
        row |= column(results, cell.name, f"{name}({split})", split, key)
    terminal = results.terminal_epoch(cell.name)
    row |= measured("terminal epoch", [np.nan if epoch is None else epoch for epoch in terminal])
    rows.append(row)
  return Table.of(rows)


def figures(results: Results) -> dict[str, Figure]:
  return {"e1_collapse": _collapse(results), "e1_phase": _phase(results)}


def _collapse(results: Results) -> Figure:
  """V along training, a panel per cell."""
  figure, axes_of = panels.grid(len(results.cells), sharey=True)
  for axes, cell in zip(axes_of, results.cells, strict=True):
    last = 1
    for label, split, key, colour, dashes in (
      ("V(test)", "test", V, ORANGE, "-"),
      ("V_weak(test), nearest train mean", "test", V_WEAK, ORANGE, "--"),
      ("V(train)", "train", V, BLUE, "-"),
    ):
      epochs, values = curve(results, cell.name, split, key)
      panels.line_in_range(axes, epochs, values, label=label, color=colour, linestyle=dashes)
      last = max([last, *epochs])
    panels.shade_terminal_phase(axes, results.terminal_epoch(cell.name), last)
    axes.set_yscale("log")
    axes.set_title(cell.name, fontsize=9)
    panels.epochs_on_x(axes, last)
  panels.label_left(axes_of, r"V = Tr $\Sigma_W$ / Tr $\Sigma_B$")
  panels.legend_above(figure, axes_of)
  return figure


def _phase(results: Results) -> Figure:
  """V(train) against V(test), both falling at first; then V(train) goes on alone."""
  figure = Figure(figsize=(7.5, 5))
  axes = figure.subplots()
  axes.set_xscale("log")
  axes.set_yscale("log")
  for cell, look in zip(results.cells, panels.looks(), strict=False):
    _, train, test = _train_and_test(results, cell.name)
    x, y = (panels.over_seeds(values)[0] for values in (train, test))
    panels.trajectory(axes, x, y, label=cell.name, **look)
  panels.diagonal(axes, "V(test) = V(train)")
  axes.set_xlabel("V(train)")
  axes.set_ylabel("V(test)")
  axes.set_title("From the untrained network (○) to the end of training (●)", fontsize=9)
  figure.legend(loc="outside right upper", fontsize=8)
  return figure


def decay_epochs(optim) -> list[float]:
  """When the learning rate of a config.optim decays by steps; empty for other schedules."""
  if (optim.get("schedule") or "step") != "step":
    return []
  # Rounded: 1/3 of 300 is 100 for us too.
  shares = optim.get("decay_at") or (1 / 3, 2 / 3)
  return [round(share * optim["total_epochs"], 6) for share in shares]


def _train_and_test(results: Results, cell: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(epochs [E], V(train) [S, E], V(test) [S, E]) at the epochs that both have."""
  epochs, both = at_common_epochs([curve(results, cell, split, V) for split in ("train", "test")])
  return epochs, *both


def _at(epochs: np.ndarray, values: np.ndarray, epoch: int) -> np.ndarray:
  """[S] at one epoch; nan where it was not observed."""
  here = values[:, epochs == epoch]
  return here[:, 0] if here.shape[1] else np.full(len(values), np.nan)


def _at_terminal_epoch(results: Results, cell: str) -> np.ndarray:
  """V(train) [S] where each seed's terminal phase begins; nan for one that has none."""
  epochs, values = curve(results, cell, "train", V)
  begins = results.terminal_epoch(cell)
  return np.array([_at(epochs, row[None], e)[0] for e, row in zip(begins, values, strict=True)])


def _over_decays(epochs: np.ndarray, values: np.ndarray, decays: list[float]) -> np.ndarray:
  """[S] the largest V just before the next decay, or at the end / V just before a decay.

  nan where nothing was observed between two decays: it was then not seen to deepen.
  """
  marks = [max(epochs[epochs <= decay], default=-1) for decay in (*decays, np.inf)]
  before, after = (
    np.stack([_at(epochs, values, mark) for mark in part]) for part in (marks[:-1], marks[1:])
  )
  same = np.array([a == b for a, b in zip(marks, marks[1:], strict=False)])
  return np.where(same[:, None], np.nan, ratio(after, before)).max(axis=0)


def _agreement(results: Results, cell: str) -> list[float]:
  """[S] the smallest rank correlation of V(train) with another NC1 of the train set."""
  of_V, smallest = curve(results, cell, "train", V), np.inf
  for key in OTHER_NC1.values():
    _, both = at_common_epochs([of_V, curve(results, cell, "train", key)])
    agreement = [rank_correlation(x, y) for x, y in zip(*both, strict=True)]
    smallest = np.minimum(smallest, agreement)  # which hands nan on
  return list(smallest)
