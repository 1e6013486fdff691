"""All that is measured of a state: its metrics, and at some epochs probes and intervals."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nc_jax import metrics
from nc_jax.training import probes
from nc_jax.training.features import Collector
from nc_jax.training.feeds import Feed
from nc_jax.training.models import LOGITS, PENULTIMATE
from nc_jax.training.observe import Observation, Observer, Row
from nc_jax.training.steps import TrainState


class Probing(NamedTuple):
  """Linear probes and nearest neighbours of frozen features; see `probes`."""

  target: str  # "fine" or "held_out": whose labels
  num_classes: int
  epochs: tuple[int, ...]
  ridge: tuple[float, ...]  # penalties, over the number of examples
  logistic: tuple[float, ...]  # penalties
  knn: tuple[int, ...]  # numbers of neighbours


class Observed(NamedTuple):
  """What a run is measured on."""

  splits: dict[str, Feed]
  probed: tuple[Feed, Feed] | None = None  # train and test, by the labels of the target
  ceiling: float | None = None  # of the probes, once features have collapsed (F2)


class Measurer:
  """Observes; probes at its epochs; gives intervals at the last one.

  Rows of probes belong to split `test`, key `probe/TARGET/KIND/PARAMETER`: the share of test
  examples that a probe, fitted to the train features, gets right. `probe/fine/ceiling` is what is
  left to any probe once features have collapsed. A logistic probe that did not converge, as may
  happen on collapsed features, says so by a row `KEY/unconverged`, 1.

  Rows KEY/low and KEY/high bound the value of KEY at the last epoch (and of probes whenever there
  are any) by 95 % bootstrap intervals over examples; the network is taken as given.

  Args:
    collector: of all layers that the observer measures.
    head: (params, D) -> (weight, bias), the head as a linear map.
    probing: None: no probes.
    replicates: of the bootstrap; 0: no intervals.
    last_epoch: at which there are intervals of the metrics.
  """

  def __init__(
    self,
    observer: Observer,
    collector: Collector,
    classifier,
    num_classes: int,
    probing: Probing | None,
    replicates: int,
    last_epoch: int,
  ):
    self.observer = observer
    self._collector = collector
    self._classifier = classifier
    self._num_classes = num_classes
    self._probing = probing
    self._replicates = replicates
    self._last_epoch = last_epoch

  def __call__(
    self,
    state: TrainState,
    epoch: int,
    observed: Observed,
    pause: Callable[[], None] = lambda: None,
  ) -> Observation:
    """`pause` as of an `Observer`; called before each layer's probes too."""
    rows, geometry = self.observer(state, observed.splits, pause)
    if self._probing is not None and epoch in self._probing.epochs:
      rows = [*rows, *self._probe(state, observed, pause)]
    if self._replicates and epoch == self._last_epoch:
      rows = [*rows, *self._intervals(state, observed.splits)]
    return Observation(rows, geometry)

  def _probe(self, state: TrainState, observed: Observed, pause: Callable[[], None]):
    own = self._probing
    train, test = (self._collector(state.variables, feed) for feed in observed.probed)
    for layer in train.layers:
      pause()
      with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = probes.probe(
          train.layers[layer],
          train.labels,
          test.layers[layer],
          test.labels,
          own.num_classes,
          ridge=own.ridge,
          logistic=own.logistic,
          knn=own.knn,
          train_mask=train.mask,
          test_mask=test.mask,
        )
      for name in found:
        if any(str(warning.message).startswith(f"{name} did not") for warning in told):
          yield Row("test", layer, f"probe/{own.target}/{name}/unconverged", 1.0)
      for name, correct in found.items():
        key = f"probe/{own.target}/{name}"
        yield from self._mean("test", layer, key, np.asarray(correct)[test.order], value=True)
      if observed.ceiling is not None:
        yield Row("test", layer, f"probe/{own.target}/ceiling", observed.ceiling)

  def _intervals(self, state: TrainState, splits: dict[str, Feed]):
    """Intervals of V and the errors of the penultimate layer, on train and test."""
    both = {split: self._collector(state.variables, splits[split]) for split in ("train", "test")}
    features = {s: np.asarray(f.layers[PENULTIMATE])[f.order] for s, f in both.items()}
    labels = {split: f.labels[f.order] for split, f in both.items()}
    weight, bias = self._classifier(state.params, features["train"].shape[1])
    weight, bias = np.asarray(weight), 0 if bias is None else np.asarray(bias)
    for split in features:
      low, high = metrics.trace_ratio_interval(
        features[split],
        labels[split],
        self._num_classes,
        replicates=self._replicates,
        method="pivotal",  # percentiles lie too low where features are many
      )
      yield Row(split, PENULTIMATE, "nc1/trace_ratio/low", low)
      yield Row(split, PENULTIMATE, "nc1/trace_ratio/high", high)
      wrong = np.argmax(features[split] @ weight.T + bias, axis=1) != labels[split]
      yield from self._mean(split, LOGITS, "error/classifier", wrong)
    train = metrics.ClassMoments.of(
      features["train"], labels["train"], self._num_classes, scatter=False
    )
    means = np.asarray(train.class_means, np.float64)
    between = np.square(means - means.mean(0)).sum(1).mean()
    nearest = np.asarray(metrics.nearest_class(features["test"], train))
    for key, centre in (("strong", labels["test"]), ("weak", nearest)):
      distance = np.square(features["test"] - means[centre]).sum(1) / between
      yield from self._mean("test", PENULTIMATE, f"{key}/second_moment", distance)

  def _mean(self, split: str, layer: str, key: str, values: np.ndarray, value: bool = False):
    """Rows of the mean over examples, if its `value` is asked for, and of its interval."""
    if value:
      yield Row(split, layer, key, float(values.mean()))
    if self._replicates:
      low, high = metrics.mean_interval(values, self._replicates)
      yield Row(split, layer, f"{key}/low", low)
      yield Row(split, layer, f"{key}/high", high)
