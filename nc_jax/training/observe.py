"""Looking at a network: every example of both splits, in evaluation mode, into metrics.

Two passes. The first folds each tapped layer into class moments, on every device its own share,
and reduces them once. The second, with the final class means at hand, compares the network's
decisions with those of the nearest class mean. Then the moments become numbers.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nc_jax import metrics
from nc_jax.errors import UserError
from nc_jax.metrics import variability
from nc_jax.training.feeds import Feed
from nc_jax.training.models import LOGITS, PENULTIMATE
from nc_jax.training.steps import AXIS, TrainState

MOST_STEPS = 128  # a call: bounds what a streamed split holds in memory at once


class Row(NamedTuple):
  """One number of an observation."""

  split: str
  layer: str
  key: str
  value: float


Replicates = dict[tuple[str, str, str], np.ndarray]  # (split, layer, key): [R], of other examples


class Observation(NamedTuple):
  rows: list[Row]  # splits, then layers in network order, then keys as in METRICS
  geometry: dict[str, np.ndarray]  # class means of the penultimate layer, by split, and `weight`
  replicates: Replicates = {}


class Observer:
  """Measures a state. Compiles on first use; holds no results.

  Args:
    apply: (variables, images, train) -> (logits, {layer: features}).
    classifier: (params, D) -> (weight [K, D], bias [K] or None), the head as a linear map.
    loss_of: the state's constants -> loss, (logits, labels, penultimate features) -> [B].
    feeds: the splits, `train` and `test`, and perhaps others, measured like `train`.
    num_classes: K.
    batch_size: examples per device and step.
    layers: names of the layers to measure, besides the penultimate; None means all that the
      network taps.
    max_scatter_dim: wider layers are measured without a [D, D] scatter. nc1/pinv then takes the
      streaming form, and nc1/vci and the ranks are left out.
    max_rank_dim: wider layers are measured without the ranks, which cost D³.
    devices: to measure on, where the feeds lie; None: all.

  Raises UserError, before anything is compiled, for a layer that the network does not tap.
  """

  def __init__(
    self,
    apply: Callable,
    classifier: Callable,
    loss_of: Callable,
    feeds: dict[str, Feed],
    state: TrainState,
    num_classes: int,
    batch_size: int,
    layers: Sequence[str] | None = None,
    max_scatter_dim: int = 4096,
    max_rank_dim: int = 1024,
    devices: Sequence | None = None,
  ):
    images = feeds["train"].split.images
    _, taps = jax.eval_shape(
      lambda v: apply(v, jnp.zeros((1, *images.shape[1:]), images.dtype), train=False),
      state.variables,
    )
    unknown = [name for name in layers or () if name not in taps]
    if unknown:
      raise UserError(
        f"config.observe.layers names {unknown[0]!r}; the network taps {', '.join(taps)}."
      )
    wanted = taps if layers is None else (*layers, PENULTIMATE)
    self._widths = {name: tap.shape[-1] for name, tap in taps.items() if name in wanted}
    self._num_classes = num_classes
    self._max_scatter_dim = max_scatter_dim
    self._max_rank_dim = max_rank_dim
    self._batch_size = batch_size
    self._feeds = feeds
    self._apply = apply
    self._classifier = classifier
    self._loss_of = loss_of
    self._devices = devices
    self.steps_per_call = common_steps(feeds, batch_size, devices)
    self._about_train = jax.jit(metrics.collapse_about)
    # Both splits are fed alike, so that one program serves them.
    axis = feeds["train"].axis
    self._fold = jax.pmap(
      self._fold_batches, axis_name=AXIS, in_axes=(None, axis, axis, 1, 1), out_axes=None,
      devices=devices,
    )  # fmt: skip
    self._judge = jax.pmap(
      self._judge_batches, axis_name=AXIS, in_axes=(None, axis, axis, 1, 1, None, None),
      out_axes=None, devices=devices,
    )  # fmt: skip

  @property
  def layers(self) -> tuple[str, ...]:
    """The layers that are measured, in network order."""
    return tuple(self._widths)

  def __call__(
    self,
    state: TrainState,
    feeds: dict[str, Feed] | None = None,
    pause: Callable[[], None] = lambda: None,
  ) -> Observation:
    """Measures a state on its feeds; None: on those that the observer was made with.

    `pause` is called again and again, as the devices come along; it may end this by raising.
    """
    feeds, variables = feeds or self._feeds, state.variables
    go_on = _Paced(pause)
    head = metrics.Head(*self._classifier(state.params, self._widths[PENULTIMATE]))
    heads = {layer: head if layer == PENULTIMATE else None for layer in self._widths}

    sums, moments = {}, {}
    for split, feed in feeds.items():
      sums[split], moments[split] = self._total(feed, self._fold, go_on, variables)

    results = {}
    for split, own in moments.items():
      centres = {"own": own, "train": moments["train"]} if split == "test" else {"own": own}
      decisions, nearest = self._total(
        feeds[split], self._judge, go_on, variables, centres, heads
      )
      size = len(feeds[split].split)
      for layer in self._widths:
        about_own = decisions["own"][layer]
        values = metrics.measure(own[layer], heads[layer], about_own, ranks=self.has_ranks(layer))
        if split == "test":
          train = moments["train"][layer]
          values |= self._about_train(decisions["train"][layer], train, own[layer])
          weak = variability.nc1(nearest[layer])
          values |= {f"weak/{key}": weak[key] for key in metrics.METRICS if key in weak}
        results[split, layer] = values
      results[split, LOGITS] = {
        "loss": sums[split]["loss"] / size,
        "error/classifier": sums[split]["wrong"] / size,
      }

    geometry = {"weight": head.weight}
    geometry |= {split: own[PENULTIMATE].class_means for split, own in moments.items()}
    fetched, geometry = jax.device_get((results, geometry))  # one transfer for everything
    rows = [  # in the order of `results`: device_get sorts
      Row(*place, key, float(fetched[place][key]))
      for place, values in results.items()
      for key in values
    ]
    return Observation(rows, geometry)

  def _total(self, feed: Feed, program: Callable, go_on: "_Paced", variables, *extra):
    """Runs a program over every example of a split and adds up what its calls return."""
    total = None
    for index, mask in batches(
      len(feed.split), self._batch_size, self._devices, self.steps_per_call
    ):
      part = program(variables, *feed(index), mask, *extra)
      go_on(part)
      total = part if total is None else _add(total, part)
    return total

  def _no_moments(self) -> dict[str, metrics.ClassMoments]:
    return {
      layer: metrics.ClassMoments.empty(
        self._num_classes, width, scatter=self.has_scatter(layer)
      )
      for layer, width in self._widths.items()
    }

  def has_scatter(self, layer: str) -> bool:
    """Whether a layer is measured with a [D, D] scatter."""
    return self._widths[layer] <= self._max_scatter_dim

  def has_ranks(self, layer: str) -> bool:
    """Whether a layer's ranks are measured."""
    return self.has_scatter(layer) and self._widths[layer] <= self._max_rank_dim

  def _fold_batches(self, variables, images, labels, index, mask):
    loss_of = self._loss_of(variables["constants"])

    def fold(moments, batch):
      ids, keep = batch
      logits, taps = self._apply(variables, images[ids], train=False)
      moments = {
        layer: metrics.accumulate(moments[layer], taps[layer], labels[ids], keep)
        for layer in moments
      }
      wrong = jnp.argmax(logits, -1) != labels[ids]
      loss = jnp.where(keep, loss_of(logits, labels[ids], taps[PENULTIMATE]), 0)
      return moments, {"loss": loss.sum(), "wrong": (wrong & keep).sum()}

    moments, sums = jax.lax.scan(fold, self._no_moments(), (index, mask))
    sums = jax.tree.map(lambda x: x.sum(0), sums)
    moments = {layer: metrics.all_reduce(m, AXIS) for layer, m in moments.items()}
    return jax.lax.psum(sums, AXIS), moments

  def _judge_batches(self, variables, images, labels, index, mask, centres, heads):
    """Decisions about each set of class means; and moments by nearest train mean, if given.

    Returns: {centre: {layer: Decisions}}, {layer: ClassMoments}.
    """
    about = centres.get("train", {})

    def judge(nearest, batch):
      ids, keep = batch
      _, taps = self._apply(variables, images[ids], train=False)
      decisions = {
        centre: {
          layer: metrics.decide(taps[layer], labels[ids], m, heads[layer], keep)
          for layer, m in moments.items()
        }
        for centre, moments in centres.items()
      }
      for layer, m in about.items():
        guess = metrics.nearest_class(taps[layer], m)
        nearest[layer] = metrics.accumulate(nearest[layer], taps[layer], guess, keep)
      return nearest, decisions

    empty = self._no_moments() if about else {}
    nearest, decisions = jax.lax.scan(judge, empty, (index, mask))
    decisions = jax.tree.map(lambda x: x.sum(0), decisions)
    nearest = {layer: metrics.all_reduce(m, AXIS) for layer, m in nearest.items()}
    return jax.lax.psum(decisions, AXIS), nearest


class _Paced:
  """Keeps the host one call ahead of the devices, and pauses after each."""

  def __init__(self, pause: Callable[[], None]):
    self._pause, self._before = pause, ()

  def __call__(self, dispatched):
    jax.block_until_ready(self._before)
    self._before = dispatched
    self._pause()


def common_steps(
  feeds: dict[str, Feed], batch_size: int, devices: Sequence | None = None
) -> int:
  """As many steps as the smallest split takes, so that one compiled shape serves them all."""
  per_step = batch_size * (len(devices) if devices else jax.device_count())
  least = min(-(-len(feed.split) // per_step) for feed in feeds.values())
  return min(max(least, 1), MOST_STEPS)


def batches(
  size: int, batch_size: int, devices: Sequence | None = None, steps_per_call: int | None = None
):
  """Index and mask [T, L, B] of this process for each call over all examples; padding is masked.

  `devices` of this process alone, or None: all of all processes. One call, or as many as bound
  its steps.
  """
  number, local, first = len(devices or ()), len(devices or ()), 0
  if devices is None:
    number, local = jax.device_count(), jax.local_device_count()
    first = jax.process_index() * local
  per_step = number * batch_size
  steps = -(-size // per_step)
  per_call = min(steps, steps_per_call or steps)
  calls = -(-steps // per_call)
  ids = np.arange(calls * per_call * per_step).reshape(calls, per_call, number, -1)
  for call in ids[:, :, first : first + local]:
    yield np.where(call < size, call, 0).astype(np.int32), call < size


@jax.jit
def _add(a, b):
  """Adds what two calls returned: moments merge, everything else is a sum."""
  is_moments = lambda node: isinstance(node, metrics.ClassMoments)
  return jax.tree.map(
    lambda x, y: metrics.merge(x, y) if is_moments(x) else x + y, a, b, is_leaf=is_moments
  )
