"""What E3a and E3b share: probes of frozen features along training, their claims and their table.

A probe's key is probe/TARGET/KIND/PARAMETER, such as probe/fine/ridge/0.001; its value is the
accuracy on the test set of a probe fitted on the train set.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nc_jax.depth import rank_correlation
from nc_jax.experiments import layers
from nc_jax.experiments.claims import Claim, Table, measured, per_seed
from nc_jax.experiments.penultimate import ERROR, V, curve
from nc_jax.experiments.results import Results
from nc_jax.experiments.statistics import at_common_epochs, ratio
from nc_jax.training.models import LOGITS, PENULTIMATE

_FLOOR = 0.02  # of accuracy, above the end
HEADLINE = "ridge/0.001"  # λ/n: without regularisation a probe reads what collapse leaves over


class Course(NamedTuple):
  """A probe's accuracy along training, seed by seed; nan for what was not observed."""

  epochs: np.ndarray  # [E]
  accuracy: np.ndarray  # [S, E]
  final: np.ndarray  # [S] at the end of training

  @property
  def untrained(self) -> np.ndarray:
    """[S] at epoch 0."""
    here = self.accuracy[:, self.epochs == 0]
    return here[:, 0] if here.shape[1] else np.full(len(here), np.nan)

  @property
  def best(self) -> np.ndarray:
    """[S]."""
    seen = np.where(np.isnan(self.accuracy), -np.inf, self.accuracy)
    best = seen.max(axis=1, initial=-np.inf)
    return np.where(np.isfinite(best), best, np.nan)

  @property
  def best_epoch(self) -> np.ndarray:
    """[S] the first at which the accuracy is the best."""
    at_best = self.accuracy == self.best[:, None]
    epochs = np.where(at_best, self.epochs, np.inf).min(axis=1, initial=np.inf)
    return np.where(np.isfinite(epochs), epochs, np.nan)

  @property
  def last_epoch(self) -> float:
    return int(self.epochs[-1]) if len(self.epochs) else np.nan

  @property
  def drop(self) -> np.ndarray:
    """[S] from the best epoch to the end."""
    return self.best - self.final


def course(
  results: Results, cell: str, target: str, layer: str = PENULTIMATE, probe: str = HEADLINE
) -> Course:
  key = f"probe/{target}/{probe}"
  epochs, accuracy = results.curve(cell, "test", layer, key)
  return Course(epochs, accuracy, results.final(cell, "test", layer, key))


def ceiling(results: Results, cell: str, target: str) -> Course:
  """The accuracy that full collapse of the test set leaves to any probe.

  Features that sit on one point per training class show nothing but that class: the best is to
  name its most frequent target class. nan where there is none, as for novel classes. It belongs
  to the labels and to no layer: rows may give it with the logits.
  """
  at_logits = f"probe/{target}/ceiling" in results.keys(cell, "test", LOGITS)
  return course(results, cell, target, LOGITS if at_logits else PENULTIMATE, "ceiling")


def probes(results: Results, cell: str, target: str, layer: str = PENULTIMATE) -> list[str]:
  """KIND/PARAMETER of every probe of a layer, the headline first."""
  found = []
  for key in results.keys(cell, "test", layer):
    match key.split("/"):
      case ["probe", of, kind, parameter] if of == target and kind != "ceiling":
        found.append(f"{kind}/{parameter}")
  return sorted(found, key=lambda probe: probe != HEADLINE)


def rise_and_fall(
  results: Results,
  cell: str,
  target: str,
  *,
  drop: float,
  beside: str = "",
  until_floor: bool = False,
) -> Iterator[Claim]:
  """E3.1, E3.3 and E3.4: what a target loses while the training task is learnt.

  Args:
    results, cell, target: whose probes.
    drop: what the last layer must lose at least.
    beside: said after accuracies, such as the ceiling.
    until_floor: E3.3 is judged while the probe falls, and not on what follows once it lies within
      0.02 of its end, about two standard errors of an accuracy on 1,500 examples: that is noise.
  """
  last = course(results, cell, target)
  yield per_seed(
    "E3.1",
    cell,
    "the probe of the last layer rises at first: epochs from the first observation to its best",
    last.best_epoch - (last.epochs[0] if len(last.epochs) else np.nan),
    ">=",
    1,
  )
  yield per_seed(
    "E3.1b",
    cell,
    "it peaks early, in the first third: best epoch / last",
    ratio(last.best_epoch, last.last_epoch),
    "<=",
    1 / 3,
  )
  yield per_seed("E3.1c", cell, f"then it falls: best − final{beside}", last.drop, ">=", drop)
  yield per_seed(
    "E3.1d",
    cell,
    "while the training task is kept: its test accuracy at the end − at the probe's best epoch",
    _accuracy_since(results, cell, last.best_epoch),
    ">=",
    -0.02,
  )
  stretch = "until it is within 0.02 of its end" if until_floor else "on"
  accuracy, collapse = _with_collapse(results, cell, last)
  yield Claim(
    "E3.3",
    cell,
    "more test collapse, worse features: Spearman's ρ of probe and V(test) from the best epoch "
    f"{stretch}, of means over seeds",
    _agreement_after_peak(accuracy.mean(axis=0), collapse.mean(axis=0), until_floor)
    if len(accuracy)
    else np.nan,
    ">=",
    0.8,
  )
  yield Claim(
    "E3.4",
    cell,
    "the drop shrinks towards early layers: Spearman's ρ of depth and drop, of means over seeds",
    _depth_and_drop(results, cell, target),
    ">=",
    0.8,
  )


def probed_layers(results: Results, cell: str, target: str) -> list[str]:
  """Those with the headline probe, in network order."""
  return layers.curves(results, cell, "test", f"probe/{target}/{HEADLINE}")[0]


def _accuracy_since(results: Results, cell: str, begin: np.ndarray) -> np.ndarray:
  """[S] test accuracy of the network at the end − at each seed's epoch."""
  epochs, error = curve(results, cell, "test", ERROR)
  at = [dict(zip(epochs, of_seed, strict=True)) for of_seed in error]
  then = [of_seed.get(epoch, np.nan) for of_seed, epoch in zip(at, begin, strict=True)]
  return np.array(then) - results.final(cell, "test", LOGITS, ERROR)


def _agreement_after_peak(accuracy: np.ndarray, collapse: np.ndarray, until_floor=False) -> float:
  """Spearman's ρ of a probe [E] and its layer's V(test) [E] from the best epoch on."""
  if np.isnan(accuracy).all():
    return np.nan
  since, until = int(np.nanargmax(accuracy)), len(accuracy)
  if until_floor:
    until = since + int(np.argmax(accuracy[since:] <= accuracy[-1] + _FLOOR)) + 1
  return rank_correlation(accuracy[since:until], collapse[since:until])


def _with_collapse(
  results: Results, cell: str, probe: Course, layer: str = PENULTIMATE
) -> list[np.ndarray]:
  """A probe's accuracy [S, E] and its layer's V(test) [S, E], at the epochs that both have."""
  collapse = results.curve(cell, "test", layer, V)
  return at_common_epochs([(probe.epochs, probe.accuracy), collapse])[1]


def _depth_and_drop(results: Results, cell: str, target: str) -> float:
  names = probed_layers(results, cell, target)
  drops = [course(results, cell, target, name).drop for name in names]
  mean = [drop.mean() if len(drop) else np.nan for drop in drops]
  return rank_correlation(range(len(mean)), mean)


def table(results: Results, target: str) -> Table:
  """Per cell: every probe of the last layer, then the headline probe of the earlier ones."""
  rows = []
  for cell in (cell.name for cell in results.cells):
    # A cell of which nothing is known keeps its line.
    wanted = [(PENULTIMATE, probe) for probe in probes(results, cell, target) or [HEADLINE]]
    earlier = probed_layers(results, cell, target)[::-1]
    wanted += [(layer, HEADLINE) for layer in earlier if layer != PENULTIMATE]
    rows += [_row(results, cell, target, *which) for which in wanted]
  return Table.of(rows)


def _row(results: Results, cell: str, target: str, layer: str, probe: str) -> dict:
  along = course(results, cell, target, layer, probe)
  row = {"cell": cell, "layer": layer, "probe": probe, "seeds": len(results.seeds(cell))}
  row |= measured("untrained", along.untrained)
  row |= measured("best epoch", along.best_epoch)
  row |= measured("best", along.best)
  row |= {"final epoch": along.last_epoch}
  row |= measured("final", along.final)
  row |= measured("drop", along.drop)
  both = _with_collapse(results, cell, along, layer)
  row |= measured("ρ with V(test) since", list(map(_agreement_after_peak, *both)))
  return row | measured("ceiling", ceiling(results, cell, target).final)
