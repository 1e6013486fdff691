"""Rows of many runs, read as curves over epochs and as final values, seed by seed."""

import copy
import csv
import itertools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from nc_jax.experiments.statistics import at_common_epochs
from nc_jax.files import replacing
from nc_jax.metrics import interval
from nc_jax.training.models import LOGITS

COLUMNS = ("cell", "seed", "epoch", "split", "layer", "key", "value")

Place = tuple[str, str, str]  # (split, layer, key)


class Cell(NamedTuple):
  """One config of an experiment; with a seed it is a run."""

  name: str  # unique in the experiment
  config: Any  # the recipe without its seed: a ConfigDict, or a dict of the same shape
  values: Mapping[str, Any] = {}  # what tells it from the other cells, such as {"n": 150}
  negative: bool = False  # its claims must fail


class Run(NamedTuple):
  """What one seed of one cell yielded."""

  cell: str
  seed: int
  rows: list[tuple[int, str, str, str, float]]  # (epoch, split, layer, key, value)
  failed: str | None = None  # why it has no end
  # What other examples would have made of the rows: {epoch: [R]} of each number.
  replicates: Mapping[Place, Mapping[int, np.ndarray]] = {}


class Results:
  """The runs of one experiment.

  A run that failed gives no curve and no final value, and stands in `failed` and in the CSV.
  S below is the number of runs of a cell that ended, in the order they were given.

  Args:
    cells: what was asked for.
    runs: what came back, in any order.

  Raises ValueError for a name that two cells share, for a run of an unknown cell, and for two
  runs of one cell and seed.
  """

  def __init__(self, cells: list[Cell], runs: list[Run]):
    self.cells = list(cells)
    self._cells = {cell.name: cell for cell in cells}
    if len(self._cells) < len(self.cells):
      names = [cell.name for cell in cells]
      twice = sorted({name for name in names if names.count(name) > 1})
      raise ValueError(f"cells must have names of their own; got twice: {', '.join(twice)}")
    self._runs = list(runs)
    self.failed = [run for run in runs if run.failed is not None]
    self._ended: dict[str, list[_Indexed]] = {name: [] for name in self._cells}
    seen = set()
    for run in runs:
      self.cell(run.cell)
      if (run.cell, run.seed) in seen:
        raise ValueError(f"runs must differ in cell or seed; got twice: {run.cell}, {run.seed}")
      seen.add((run.cell, run.seed))
      if run.failed is None:
        self._ended[run.cell].append(_index(run))

  def cell(self, name: str) -> Cell:
    if name not in self._cells:
      raise ValueError(f"cell must be one of {', '.join(self._cells)}; got {name!r}")
    return self._cells[name]

  def seeds(self, cell: str) -> list[int]:
    return [run.seed for run in self._of(cell)]

  def layers(self, cell: str) -> list[str]:
    """In the order of the network; the pseudo-layer of the logits is none of them."""
    names = (layer for run in self._of(cell) for _, layer in run.keys)
    return [name for name in dict.fromkeys(names) if name != LOGITS]

  def keys(self, cell: str, split: str, layer: str) -> list[str]:
    """What was measured of a layer, in the order of the rows, bounds included."""
    names = (run.keys.get((split, layer), ()) for run in self._of(cell))
    return list(dict.fromkeys(itertools.chain.from_iterable(names)))

  def curve(self, cell: str, split: str, layer: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(epochs int [E], values float64 [S, E]) at the epochs that all seeds have; E may be 0."""
    curves = [run.curve((split, layer, key)) for run in self._of(cell)]
    epochs, values = at_common_epochs(curves)
    return epochs, np.array(values).reshape(len(curves), len(epochs))

  def final(self, cell: str, split: str, layer: str, key: str) -> np.ndarray:
    """float64 [S]: each seed's value at its last epoch; nan where it has none there."""
    values = []
    for run in self._of(cell):
      epochs, of_one = run.curve((split, layer, key))
      values.append(of_one[-1] if len(epochs) and epochs[-1] == run.last else np.nan)
    return np.array(values, float)

  def terminal_epoch(self, cell: str) -> list[int | None]:
    """Per seed: the first observed epoch with train error 0; None if there was none."""
    curves = [run.curve(("train", LOGITS, "error/classifier")) for run in self._of(cell)]
    return [min(epochs[errors == 0].tolist(), default=None) for epochs, errors in curves]

  def alone(self, seed: int) -> "Results":
    """The runs of one seed."""
    ended = {cell: [run for run in runs if run.seed == seed] for cell, runs in self._ended.items()}
    return self._of_runs(ended)

  def bounds(self, statistic: Callable[["Results"], Any]) -> tuple[np.ndarray, np.ndarray]:
    """95 % bootstrap bounds over examples of anything that is computed from results.

    The statistic is computed anew from each replicate, in which every number that was resampled
    takes the value that other examples would have given it, in all runs and at all epochs the
    same. Networks are taken as given: what other seeds would give, the bounds do not say.

    Args:
      statistic: results -> numbers, of one shape for all replicates.

    Returns: (low, high), each of that shape. nan where there are no replicates, and for a number
      that is nan, or would be by more than 5 % of the replicates, as an epoch that never comes.
    """
    found = np.array(statistic(self), float)
    runs = [run for of_cell in self._ended.values() for run in of_cell]
    count = min((run.count for run in runs), default=0)
    values = [statistic(self._replicate(which)) for which in range(count)]
    values = np.array(values, float).reshape(count, found.size)
    lacking = np.isnan(found.ravel()) | (np.isnan(values).sum(axis=0) > 0.05 * count)
    values[:, lacking] = np.nan
    bounds = np.array(list(map(interval, values.T))).reshape(found.size, 2)
    return bounds[:, 0].reshape(found.shape), bounds[:, 1].reshape(found.shape)

  def _replicate(self, which: int) -> "Results":
    other = lambda run: run._replace(which=which)
    return self._of_runs({cell: list(map(other, runs)) for cell, runs in self._ended.items()})

  def _of_runs(self, ended: dict[str, list["_Indexed"]]) -> "Results":
    other = copy.copy(self)
    other._ended = ended
    return other

  def write_csv(self, path: pathlib.Path):
    """One line per number, failed runs included."""
    with replacing(path) as file:
      writer = csv.writer(file, lineterminator="\n")
      writer.writerow(COLUMNS)
      for run in self._runs:
        writer.writerows(
          (run.cell, run.seed, *where, f"{value:.9g}")  # nine digits hold a float32
          for *where, value in run.rows
        )

  def _of(self, cell: str) -> list["_Indexed"]:
    return self._ended[self.cell(cell).name]


class _Indexed(NamedTuple):
  """A run by what was measured, or one of its replicates."""

  seed: int
  last: int | None  # its last epoch; None without rows
  keys: Mapping[tuple[str, str], list[str]]  # of each (split, layer)
  curves: Mapping[Place, tuple[np.ndarray, np.ndarray]]  # epochs int [E], increasing; values [E]
  replicates: Mapping[Place, np.ndarray]  # [R, E], of those that have any
  which: int | None = None  # the replicate; None: what was measured

  def curve(self, place: Place) -> tuple[np.ndarray, np.ndarray]:
    """(epochs int [E], values float64 [E]); E is 0 for what was not measured."""
    epochs, values = self.curves.get(place, _NOTHING)
    if self.which is not None and place in self.replicates:
      values = self.replicates[place][self.which]
    return epochs, values

  @property
  def count(self) -> int:
    """R, as far as all numbers have replicates; 0 if none has."""
    return min(map(len, self.replicates.values()), default=0)


_NOTHING = (np.zeros(0, int), np.zeros(0))


def _index(run: Run) -> _Indexed:
  found: dict[Place, dict[int, float]] = {}
  for epoch, split, layer, key, value in run.rows:
    found.setdefault((split, layer, key), {})[epoch] = value
  keys: dict[tuple[str, str], list[str]] = {}
  for split, layer, key in found:
    keys.setdefault((split, layer), []).append(key)
  last = max((max(curve) for curve in found.values()), default=None)
  curves = {}
  for place, curve in found.items():
    epochs = sorted(curve)
    curves[place] = np.array(epochs, int), np.array([curve[epoch] for epoch in epochs], float)
  replicates = {place: run.replicates[place] for place in run.replicates if place in curves}
  seen = lambda curves: {epoch for curve in curves.values() for epoch in curve}
  if seen(replicates) != seen(found):
    replicates = {}  # those of some epochs would be mixed with the plain numbers of others
  replicates = {place: _along(*curves[place], own) for place, own in replicates.items()}
  return _Indexed(run.seed, last, keys, curves, replicates)


def _along(epochs: np.ndarray, values: np.ndarray, own: Mapping[int, np.ndarray]) -> np.ndarray:
  """[R, E] replicates of a curve; at epochs that have none the value itself."""
  count = min(map(len, own.values()))
  found = np.tile(values, (count, 1))
  for column, epoch in enumerate(epochs.tolist()):
    if epoch in own:
      found[:, column] = own[epoch][:count]
  return found
