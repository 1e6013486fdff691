"""Where the runs of a sweep ended: a row for each, maps of all, and the best in a few lines."""

import csv
import math
import pathlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from nc_jax.experiments import figure_files, penultimate
from nc_jax.experiments.claims import three_digits
from nc_jax.experiments.grid import to_text
from nc_jax.experiments.results import Results
from nc_jax.figure_style import STYLE
from nc_jax.files import replacing
from nc_jax.heat_maps import heat_map
from nc_jax.writers import to_text as nine_digits

# Name: (split, key, name of its figure where each has one of its own).
VALUES = {
  "V(train)": ("train", penultimate.V, "sweep_V_train"),
  "V(test)": ("test", penultimate.V, "sweep_V_test"),
  "V_weak(test)": ("test", penultimate.V_WEAK, "sweep_V_weak_test"),
  "train error": ("train", penultimate.ERROR, "sweep_train_error"),
  "test error": ("test", penultimate.ERROR, "sweep_test_error"),
}
TERMINAL = "terminal epoch"

ONE_FIGURE = "sweep"
STEMS = (ONE_FIGURE, *(stem for _, _, stem in VALUES.values()))

_MOST_CELLS = 20  # that are told of
_MOST_FAILURES = 5
_WIDEST = 24  # characters of a swept value

Row = dict[str, Any]


def rows(results: Results) -> list[Row]:
  """A row a run: `cell`, the swept settings, `seed`, VALUES at the end, `terminal epoch`, `failed`.

  `failed` says why a run has no end, and is None if it has; without one all numbers are nan. The
  terminal epoch is the first observed one with train error 0; None if there was none. Where there
  are replicates, `NAME low` and `NAME high` bound each number; see `Results.bounds`.
  """
  found = _rows(results)
  names = (*VALUES, TERMINAL)
  low, high = results.bounds(lambda of: [[row[name] for name in names] for row in _rows(of)])
  for row, *ends in zip(found, low, high, strict=True):
    for name, *bounds in zip(names, *ends, strict=True):
      row |= {f"{name} {end}": bound for end, bound in zip(("low", "high"), bounds, strict=True)}
  return found


def _rows(results: Results) -> list[Row]:
  failed = defaultdict(dict)
  for run in results.failed:
    nothing = dict.fromkeys(VALUES, math.nan)
    failed[run.cell][run.seed] = {**nothing, TERMINAL: None, "failed": run.failed}
  found = []
  for cell in results.cells:
    finals = {
      name: penultimate.final(results, cell.name, split, key)
      for name, (split, key, _) in VALUES.items()
    }
    finals[TERMINAL] = results.terminal_epoch(cell.name)
    ended = {
      seed: {name: values[i] for name, values in finals.items()} | {"failed": None}
      for i, seed in enumerate(results.seeds(cell.name))
    }
    for seed, end in sorted((ended | failed[cell.name]).items()):
      found.append({"cell": cell.name, **cell.values, "seed": seed, **end})
  return found


def write_csv(table: Sequence[Row], settings: Sequence[str], path: pathlib.Path):
  """A line per run; empty is what it has not."""
  ends = [f"{name} {end}" for name in (*VALUES, TERMINAL) for end in ("low", "high")]
  ends = [name for name in ends if any(not math.isnan(row.get(name, math.nan)) for row in table)]
  columns = ["cell", *settings, "seed", *VALUES, TERMINAL, *ends, "failed"]
  with replacing(path) as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for row in table:
      texts = {name: to_text(row[name]) for name in settings}
      texts |= {name: "" if row["failed"] else nine_digits(row[name]) for name in (*VALUES, *ends)}
      writer.writerow((row | texts)[column] for column in columns)


def figures(table: Sequence[Row], settings: Sequence[str]) -> dict[str, Figure]:
  """Maps over the two settings with most values, or lines over the only one that has several.

  One figure `sweep` of all VALUES; of each value one, a panel per combination of the other
  settings, where these have several too.
  """
  counts = {name: len({row[name] for row in table}) for name in settings}
  x, *rest = sorted(settings, key=lambda name: -counts[name])  # of equals the first stays first
  y = rest.pop(0) if rest and counts[rest[0]] > 1 else None
  draw = lambda values: heat_map(table, x, y, values, rest)
  if all(counts[name] == 1 for name in rest):
    return {ONE_FIGURE: draw(list(VALUES))}
  return {stem: draw(name) for name, (_, _, stem) in VALUES.items()}


def draw(table: Sequence[Row], settings: Sequence[str], folder: pathlib.Path):
  """Writes the figures, in the place of those of an earlier sweep file."""
  with matplotlib.rc_context(STYLE):
    drawn = figures(table, settings)
  kept = figure_files.save(folder, drawn)
  for stem in STEMS:
    for kind in ("png", "svg"):
      path = folder / f"{stem}.{kind}"
      if path not in kept:
        path.unlink(missing_ok=True)


def summary(table: Sequence[Row], settings: Sequence[str]) -> str:
  """The cells with least V(train), means over the seeds that ended, and the runs that failed."""
  cells = defaultdict(list)
  for row in table:
    cells[row["cell"]].append(row)
  ended = {cell: [run for run in runs if run["failed"] is None] for cell, runs in cells.items()}
  mean = lambda numbers: sum(numbers) / len(numbers) if numbers else math.nan
  means = {
    cell: {name: mean([run[name] for run in runs]) for name in VALUES}
    for cell, runs in ended.items()
  }
  least_first = lambda cell: (math.isnan(means[cell]["V(train)"]), means[cell]["V(train)"])
  shown = sorted(cells, key=least_first)[:_MOST_CELLS]
  lines = [[*settings, *VALUES, "ended"]]
  for cell in shown:
    swept = [to_text(cells[cell][0][name])[:_WIDEST] for name in settings]
    numbers = [three_digits(means[cell][name]) for name in VALUES]
    lines.append([*swept, *numbers, f"{len(ended[cell])} of {len(cells[cell])}"])
  text = _aligned(lines)
  if len(shown) < len(cells):
    text.append(f"... the {len(shown)} of {len(cells)} cells with least V(train)")
  failed = [row for row in table if row["failed"] is not None]
  if failed:
    text.append(f"{len(failed)} of {len(table)} runs failed:")
    text += [f"  {r['cell']}, seed {r['seed']}: {r['failed']}" for r in failed[:_MOST_FAILURES]]
    if len(failed) > _MOST_FAILURES:
      text.append("  ...")
  return "\n".join(text)


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  pad = lambda line: "  ".join(map(str.rjust, line, widths))
  return [pad(line) for line in lines]
