"""The features of every example of a split, for what cannot be made of moments."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nc_jax.training.feeds import Feed
from nc_jax.training.observe import batches
from nc_jax.training.steps import AXIS


class Features(NamedTuple):
  """Rows lie as the devices hold them: examples in another order than the split's, and padding."""

  layers: dict[str, jax.Array]  # float32 [N', D], spread over the devices
  labels: np.ndarray  # int32 [N']
  mask: np.ndarray  # bool [N'], False for padding
  order: np.ndarray  # int64 [N], the rows of the split's examples in the split's order


class Collector:
  """Collects features in evaluation mode. They must fit the devices' memory, all layers together.

  Args:
    apply: (variables, images, train) -> (logits, {layer: features}).
    layers: whose features to collect.
    batch_size: examples per device and step.
    axis: the device axis of the feeds.
    steps_per_call: batches that a compiled call takes.
    devices: where the feeds lie; None: all of this process. Of several processes each collects all
      examples.
  """

  def __init__(
    self,
    apply: Callable,
    layers: Sequence[str],
    batch_size: int,
    axis: int | None,
    steps_per_call: int,
    devices: Sequence | None = None,
  ):
    self._batch_size = batch_size
    self.steps_per_call = steps_per_call
    self.devices = devices = devices or jax.local_devices()

    def collect(variables, images, index):
      def one(ids):
        _, taps = apply(variables, images[ids], train=False)
        return {layer: taps[layer] for layer in layers}

      return jax.lax.map(one, index)

    self._collect = jax.pmap(collect, axis_name=AXIS, in_axes=(None, axis, 1), devices=devices)

  def __call__(self, variables, feed: Feed) -> Features:
    """All examples of a feed."""
    layers, places, masks = [], [], []
    for index, mask in batches(
      len(feed.split), self._batch_size, self.devices, self.steps_per_call
    ):
      images, _, at = feed(index)
      layers.append(self._collect(variables, images, at))  # {layer: [L, T, B, D]}
      places.append(np.moveaxis(index, 1, 0))
      masks.append(np.moveaxis(mask, 1, 0))
    join = lambda *parts: _rows(parts)
    places, mask = (np.concatenate(parts, axis=1).ravel() for parts in (places, masks))
    rows = np.flatnonzero(mask)
    return Features(
      jax.tree.map(join, *layers), feed.split.labels[places], mask, rows[np.argsort(places[rows])]
    )


@jax.jit
def _rows(parts: tuple[jax.Array, ...]) -> jax.Array:
  """[L, T, B, D] of several calls -> [N', D]; each device keeps its rows."""
  joined = jnp.concatenate(parts, axis=1)
  return joined.reshape(-1, joined.shape[-1])
