"""What is measured of a state, as other examples would have made it: bootstrap replicates."""

from collections.abc import Callable

import jax
import numpy as np

from nc_jax import metrics
from nc_jax.metrics import spectrum, variability
from nc_jax.training.features import Collector
from nc_jax.training.feeds import Feed
from nc_jax.training.models import LOGITS, PENULTIMATE
from nc_jax.training.observe import Observer, Replicates
from nc_jax.training.steps import TrainState


class Resampler:
  """Replicates over examples; the network is taken as given, and so are class means of train.

  Of the train and the test split, at every observed epoch:

      nc1/trace_ratio of every layer
      nc4/ncc_error of every layer, error/classifier
      strong/second_moment, weak/second_moment of every layer's test features

  and if asked for, at N D² a replicate,

      all of nc1, of the last layer's train features, and at the end of every layer
      rank/numerical, at the end, of every layer's train features

  nc1 and ranks are pivotal; see `metrics.metric_replicates`. A split's draws are the same for all
  of its numbers and at all epochs, so that whatever is made of them can be made anew of each
  replicate.

  Args:
    observer: tells which layers have a scatter and ranks.
    collector: of all layers that the observer measures.
    classifier: (params, D) -> (weight, bias), the head as a linear map.
    num_classes: K.
    replicates: R.
    nc1, ranks: see above.
  """

  def __init__(
    self,
    observer: Observer,
    collector: Collector,
    classifier: Callable,
    num_classes: int,
    replicates: int,
    nc1: bool = False,
    ranks: bool = False,
  ):
    self._observer = observer
    self._collector = collector
    self._classifier = classifier
    self._num_classes = num_classes
    self._replicates = replicates
    self._nc1 = nc1
    self._ranks = ranks

  def mean(self, split: str, values: np.ndarray) -> np.ndarray:
    """[R] replicates of the mean over a split's examples of values [N], in the split's order."""
    return metrics.mean_replicates(values, self._replicates, _SEEDS[split])

  def __call__(
    self,
    state: TrainState,
    splits: dict[str, Feed],
    at_end: bool,
    pause: Callable[[], None],
  ) -> Replicates:
    """`pause` is called before each layer; it may end this by raising."""
    with jax.default_device(self._collector.devices[0]):
      return self._of_state(state, splits, at_end, pause)

  def _of_state(self, state, splits, at_end, pause) -> Replicates:
    both = {split: self._collector(state.variables, splits[split]) for split in _SEEDS}
    labels = {split: f.labels[f.order] for split, f in both.items()}
    found = {}
    for layer in both["train"].layers:
      pause()
      features = {split: np.asarray(f.layers[layer])[f.order] for split, f in both.items()}
      found |= self._of_layer(layer, features, labels, at_end)
      if layer == PENULTIMATE:
        weight, bias = self._classifier(state.params, features["train"].shape[1])
        weight, bias = np.asarray(weight), 0 if bias is None else np.asarray(bias)
        for split in both:
          wrong = np.argmax(features[split] @ weight.T + bias, axis=1) != labels[split]
          found[split, LOGITS, "error/classifier"] = self.mean(split, wrong)
    return found

  def _of_layer(self, layer: str, features: dict[str, np.ndarray], labels: dict, at_end: bool):
    found, own = {}, {}
    for split, x in features.items():
      own[split] = metrics.ClassMoments.of(x, labels[split], self._num_classes, scatter=False)
      measure, scatter = self._measure(split, layer, at_end)
      resampled = metrics.metric_replicates(
        measure,
        x,
        labels[split],
        self._num_classes,
        self._replicates,
        _SEEDS[split],
        pivotal=True,
        scatter=scatter,
      )
      if "rank/numerical" in resampled:  # reflected, it might exceed what there is
        resampled["rank/numerical"] = np.minimum(resampled["rank/numerical"], x.shape[1])
      found |= {(split, layer, key): values for key, values in resampled.items()}
      nearest = np.asarray(metrics.nearest_class(x, own[split]))
      found[split, layer, "nc4/ncc_error"] = self.mean(split, nearest != labels[split])
    train, x = own["train"], features["test"]
    means, between = np.asarray(train.class_means), float(variability.trace_between(train))
    for key, centre in (
      ("strong", labels["test"]),
      ("weak", np.asarray(metrics.nearest_class(x, train))),
    ):
      distance = np.square(x - means[centre]).sum(1) / between
      found["test", layer, f"{key}/second_moment"] = self.mean("test", distance)
    return found

  def _measure(self, split: str, layer: str, at_end: bool) -> tuple[Callable, bool]:
    """What is asked of resampled moments, and whether these need a scatter."""
    nc1 = self._nc1 and (at_end or (split, layer) == ("train", PENULTIMATE))
    rank = self._ranks and at_end and split == "train" and self._observer.has_ranks(layer)
    measure = _MEASURES[nc1, rank]
    return measure, (nc1 or rank) and self._observer.has_scatter(layer)


# The draws of a split. Two splits may be of one size, and are drawn apart.
_SEEDS = {"train": 0, "test": 1}


def _trace_ratio(moments: metrics.ClassMoments) -> dict:
  return {"nc1/trace_ratio": variability.trace_ratio(moments)}


def _rank(moments: metrics.ClassMoments) -> dict:
  return {"rank/numerical": spectrum.numerical_rank_of_covariance(moments)}


# By whether all of nc1, and the rank, are wanted. Made once, for each is compiled once.
_MEASURES = {
  (False, False): _trace_ratio,
  (False, True): lambda moments: _trace_ratio(moments) | _rank(moments),
  (True, False): variability.nc1,
  (True, True): lambda moments: variability.nc1(moments) | _rank(moments),
}
