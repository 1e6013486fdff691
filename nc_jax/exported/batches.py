"""All examples of a set in order, in batches of one shape whatever the sizes of the files."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nc_jax.exported.files import FeatureSet
from nc_jax.npz import Stored, opened


class Batch(NamedTuple):
  """Consecutive examples; every batch of a pass has the same shapes."""

  start: int  # place of the first example in the set
  size: int  # examples; the rows after them are zeros that `mask` leaves out
  features: np.ndarray  # [B, D]
  labels: np.ndarray  # [B] int32
  mask: np.ndarray  # [B] bool


def batches_of(examples: FeatureSet, rows: int, dtype=np.float32) -> Iterator[Batch]:
  """All examples, `rows` at a time; one shard after the other is mapped.

  Raises UserError if a file changed since it was first opened.
  """
  start, filled, batch = 0, 0, None
  for shard in examples.shards:
    features, taken = opened(shard.features), 0
    while taken < len(shard.labels):
      if batch is None:  # a new one each time: the device may still be reading the last
        shapes = (((rows, examples.dim), dtype), (rows, np.int32), (rows, bool))
        batch = [np.zeros(*shape) for shape in shapes]
      count = min(rows - filled, len(shard.labels) - taken)
      here, there = slice(filled, filled + count), slice(taken, taken + count)
      with np.errstate(over="ignore"):  # what becomes inf will be reported as such
        batch[0][here] = features[there]
      batch[1][here], batch[2][here] = shard.labels[there], True
      taken, filled = taken + count, filled + count
      if filled == rows:
        yield Batch(start, filled, *batch)
        start, filled, batch = start + filled, 0, None
    if isinstance(shard.features, Stored):
      shard.features.check()
  if filled:
    yield Batch(start, filled, *batch)
