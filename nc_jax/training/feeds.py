"""How examples reach the compiled programs."""

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np

from nc_jax.training.data import Split
from nc_jax.training.steps import replicate


class Feed:
  """A split's examples as arguments of a pmapped program, addressed by index arrays.

  `resident`: all examples lie on every device and an index is an example's id. Otherwise each
  call carries just the examples that it needs, sharded, and an index is a place among these.
  Either way the program gathers `images[index]`. `devices` are those that it runs on; None: all
  local ones.

  Images that are streamed from disk are read here, call by call. A compiled call returns before
  the devices are done with it, so that the next call's images are read while they work.
  """

  def __init__(self, split: Split, resident: bool, devices: Sequence | None = None):
    self.split = split
    self.axis = None if resident else 0
    self._devices = devices
    self._placed = replicate((split.images, split.labels), devices) if resident else None

  def of(self, split: Split) -> "Feed":
    """Another split, fed alike."""
    return Feed(split, self._placed is not None, self._devices)

  def relabelled(self, labels: np.ndarray) -> "Feed":
    """The same images, where they lie, under other labels [N]."""
    other = copy.copy(self)
    other.split = dataclasses.replace(self.split, labels=labels)
    if self._placed is not None:
      other._placed = (self._placed[0], replicate(labels, self._devices))
    return other

  def __call__(self, index: np.ndarray):
    """`index` [T, L, ..., B] of example ids -> (images, labels, index) to pass on."""
    if self._placed is not None:
      return *self._placed, index
    steps, devices, *batch = index.shape
    ids = np.moveaxis(index, 1, 0).reshape(devices, -1)
    places = np.arange(ids.shape[1], dtype=np.int32).reshape(steps, 1, *batch)
    return self.split.images[ids], self.split.labels[ids], np.repeat(places, devices, axis=1)
