"""All that is measured of a state: its metrics, and at some epochs probes and intervals."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from nc_jax import metrics
from nc_jax.metrics import spectrum, variability
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
      for name, probed in found.items():
        key = f"probe/{own.target}/{name}"
        if not probed.converged:
          yield Row("test", layer, f"{key}/unconverged", 1.0)
        correct = np.asarray(probed.correct)[test.order]
        yield from self._mean("test", layer, key, correct, value=True)
      if observed.ceiling is not None:
        yield Row("test", layer, f"probe/{own.target}/ceiling", observed.ceiling)

  def _intervals(self, state: TrainState, splits: dict[str, Feed]):
    """Of NC1, rank and the decisions of every layer, and of the classifier's error."""
    both = {split: self._collector(state.variables, splits[split]) for split in ("train", "test")}
    labels = {split: f.labels[f.order] for split, f in both.items()}
    for layer in both["train"].layers:
      features = {split: np.asarray(f.layers[layer])[f.order] for split, f in both.items()}
      yield from self._intervals_of(layer, features, labels)
      if layer == PENULTIMATE:
        weight, bias = self._classifier(state.params, features["train"].shape[1])
        weight, bias = np.asarray(weight), 0 if bias is None else np.asarray(bias)
        for split in both:
          wrong = np.argmax(features[split] @ weight.T + bias, axis=1) != labels[split]
          yield from self._mean(split, LOGITS, "error/classifier", wrong)

  def _intervals_of(self, layer: str, features: dict[str, np.ndarray], labels: dict):
    """Of one layer; what is about class means takes those of the sample as given."""
    for split in features:
      bounds = metrics.metric_intervals(
        _nc1_and_rank if self.observer.has_ranks(layer) else variability.nc1,
        features[split],
        labels[split],
        self._num_classes,
        replicates=self._replicates,
        method="pivotal",  # percentiles lie too low where features are many
        scatter=self.observer.has_scatter(layer),
      )
      for key, (low, high) in bounds.items():
        yield Row(split, layer, f"{key}/low", low)
        yield Row(split, layer, f"{key}/high", high)
      own = self._moments(features[split], labels[split])
      nearest = np.asarray(metrics.nearest_class(features[split], own))
      yield from self._mean(split, layer, "nc4/ncc_error", nearest != labels[split])
    train = self._moments(features["train"], labels["train"])
    means, between = np.asarray(train.class_means), float(variability.trace_between(train))
    nearest = np.asarray(metrics.nearest_class(features["test"], train))
    for key, centre in (("strong", labels["test"]), ("weak", nearest)):
      distance = np.square(features["test"] - means[centre]).sum(1) / between
      yield from self._mean("test", layer, f"{key}/second_moment", distance)

  def _moments(self, features: np.ndarray, labels: np.ndarray) -> metrics.ClassMoments:
    return metrics.ClassMoments.of(features, labels, self._num_classes, scatter=False)

  def _mean(self, split: str, layer: str, key: str, values: np.ndarray, value: bool = False):
    """Rows of the mean over examples, if its `value` is asked for, and of its interval."""
    if value:
      yield Row(split, layer, key, float(values.mean()))
    if self._replicates:
      low, high = metrics.mean_interval(values, self._replicates)
      yield Row(split, layer, f"{key}/low", low)
      yield Row(split, layer, f"{key}/high", high)


def _nc1_and_rank(moments: metrics.ClassMoments) -> dict:
  ranks = spectrum.ranks(moments)
  return variability.nc1(moments) | {"rank/numerical": ranks["rank/numerical"]}
