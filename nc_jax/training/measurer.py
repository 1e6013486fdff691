"""All that is measured of a state: its metrics, and at some epochs probes and intervals."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from nc_jax import metrics
from nc_jax.training import probes
from nc_jax.training.features import Collector
from nc_jax.training.feeds import Feed
from nc_jax.training.models import PENULTIMATE
from nc_jax.training.observe import Observation, Observer, Replicates, Row
from nc_jax.training.resampling import Resampler
from nc_jax.training.steps import TrainState


class Probing(NamedTuple):
  """Linear probes and nearest neighbours of frozen features; see `probes`."""

  target: str  # "fine" or "held_out": whose labels
  num_classes: int
  epochs: tuple[int, ...]
  ridge: tuple[float, ...]  # penalties, over the number of examples
  logistic: tuple[float, ...]  # penalties
  knn: tuple[int, ...]  # numbers of neighbours
  every_layer: tuple[str, ...]  # kinds that every layer has, and not the penultimate alone

  def of(self, layer: str) -> dict[str, tuple]:
    """Parameters of the probes of a layer, by kind."""
    has = lambda kind: layer == PENULTIMATE or kind in self.every_layer
    return {kind: getattr(self, kind) if has(kind) else () for kind in probes.KINDS}


class Observed(NamedTuple):
  """What a run is measured on."""

  splits: dict[str, Feed]
  probed: tuple[Feed, Feed] | None = None  # train and test, by the labels of the target
  # Which test examples any probe gets right once features have collapsed (F2), bool [N].
  ceiling: np.ndarray | None = None


class Measurer:
  """Observes; probes at its epochs; says how far the numbers depend on the examples.

  Rows of probes belong to split `test`, key `probe/TARGET/KIND/PARAMETER`: the share of test
  examples that a probe, fitted to the train features, gets right. `probe/fine/ceiling` is what is
  left to any probe once features have collapsed. A logistic probe that did not converge, as may
  happen on collapsed features, says so by a row `KEY/unconverged`, 1.

  With a resampler, rows KEY/low and KEY/high bound KEY by 95 % bootstrap intervals over examples,
  wherever there are replicates of it.

  Args:
    observer: of the metrics.
    collector: of all layers that the observer measures.
    probing: None: no probes.
    resampler: None: no replicates and no intervals.
    last_epoch: at which the resampler is told that it is the end.
  """

  def __init__(
    self,
    observer: Observer,
    collector: Collector,
    probing: Probing | None,
    resampler: Resampler | None,
    last_epoch: int,
  ):
    self.observer = observer
    self._collector = collector
    self._probing = probing
    self._resampler = resampler
    self._last_epoch = last_epoch

  @property
  def devices(self) -> Sequence:
    """Where the states and the examples that it measures lie."""
    return self._collector.devices

  def __call__(
    self,
    state: TrainState,
    epoch: int,
    observed: Observed,
    pause: Callable[[], None] = lambda: None,
  ) -> Observation:
    """`pause` as of an `Observer`; called before each layer's probes and replicates too."""
    rows, geometry, _ = self.observer(state, observed.splits, pause)
    replicates: Replicates = {}
    if self._probing is not None and epoch in self._probing.epochs:
      for place, correct in self._probe(state, observed, pause):
        rows.append(Row(*place, float(np.mean(correct))))
        if self._resampler is not None and np.ndim(correct):
          replicates[place] = self._resampler.mean(place[0], correct)
    if self._resampler is not None:
      at_end = epoch == self._last_epoch
      replicates |= self._resampler(state, observed.splits, at_end, pause)
    return Observation([*rows, *_bounds(replicates)], geometry, replicates)

  def _probe(self, state: TrainState, observed: Observed, pause: Callable[[], None]):
    """Yields (split, layer, key) with bool [N], which test examples are right, or with a number."""
    own = self._probing
    train, test = (self._collector(state.variables, feed) for feed in observed.probed)
    for layer in train.layers:
      pause()
      found = probes.probe(
        train.layers[layer],
        train.labels,
        test.layers[layer],
        test.labels,
        own.num_classes,
        **own.of(layer),
        train_mask=train.mask,
        test_mask=test.mask,
      )
      for name, probed in found.items():
        key = f"probe/{own.target}/{name}"
        if not probed.converged:
          yield ("test", layer, f"{key}/unconverged"), 1.0
        yield ("test", layer, key), np.asarray(probed.correct)[test.order]
      if observed.ceiling is not None:
        yield ("test", layer, f"probe/{own.target}/ceiling"), observed.ceiling


def _bounds(replicates: Replicates):
  for (split, layer, key), values in replicates.items():
    for end, bound in zip(("low", "high"), metrics.interval(values), strict=True):
      yield Row(split, layer, f"{key}/{end}", bound)
