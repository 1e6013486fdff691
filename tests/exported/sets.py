"""Sets of examples with a head, as another framework would have exported them."""

import numpy as np

from nc_jax.npz import opened
from tests.metrics import worlds

N, D, K = 23, 6, 4  # of a set whose numbers mean nothing


def arrays(size=N, seed=0, **changes):
  """{name: array}; a change to None leaves one out."""
  rng = np.random.default_rng(seed)
  made = {
    "features": rng.normal(size=(size, D)).astype(np.float32),
    "labels": rng.integers(0, K, size),
    "weight": rng.normal(size=(K, D)).astype(np.float32),
    "bias": np.arange(K, dtype=np.float32),
  }
  made |= changes
  return {name: array for name, array in made.items() if array is not None}


def without_head(size=N, seed=0, **changes):
  return arrays(size, seed, **{"weight": None, "bias": None} | changes)


def saved(path, **made):
  np.savez(path, **made)
  return path


def whole(examples):
  """The features and labels of all shards."""
  features = np.concatenate([opened(shard.features) for shard in examples.shards])
  return features, np.concatenate([shard.labels for shard in examples.shards])


# Sets to be measured: classes overlap, class 6 stays empty, the head makes mistakes of its own.
_WORLD = worlds.clusters(size=worlds.N + 60, std=1.5, offset=3.0, missing=(6,))
_ROWS = slice(0, worlds.N), slice(worlds.N, None)
TRAIN, TEST = ({"features": _WORLD.features[i], "labels": _WORLD.labels[i]} for i in _ROWS)
HEAD = {"weight": _WORLD.weight, "bias": -_WORLD.features.mean(0) @ _WORLD.weight.T}
