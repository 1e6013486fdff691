"""Batches: every example once and in order, whatever the files look like."""

import os
import resource

import numpy as np
import pytest

from nc_jax.exported import batches, files
from tests.exported import sets


def through(paths, rows, dtype=np.float32):
  """The features and labels of the files, through batches of so many rows."""
  examples = files.read([str(path) for path in paths])
  found = list(batches.batches_of(examples, rows, dtype))
  assert all(b.features.shape == (rows, examples.dim) for b in found)
  assert [b.start for b in found] == list(range(0, examples.size, rows))
  assert all(b.mask.sum() == b.size and not b.features[b.size :].any() for b in found)
  features = np.concatenate([b.features[b.mask] for b in found])
  return features, np.concatenate([b.labels[b.mask] for b in found])


@pytest.mark.parametrize("rows", [1, 6, 7, 8, 22, 23, 24, 100])
def test_shards_are_one_set_however_they_are_cut(tmp_path, rows):
  made = sets.without_head()
  edges = [0, 5, 5, 6, 20, sets.N]  # one shard is empty
  paths = []
  for start, stop in zip(edges[:-1], edges[1:], strict=True):
    shard = {name: array[start:stop] for name, array in made.items()}
    paths.append(sets.saved(tmp_path / f"{len(paths)}.npz", **shard))
  features, labels = through(paths, rows)
  np.testing.assert_array_equal(features, made["features"])
  np.testing.assert_array_equal(labels, made["labels"])


@pytest.mark.parametrize("stored", ["float64", "float16", ">f4", "int8"])
def test_batches_have_the_dtype_that_is_computed_in(tmp_path, stored):
  made = sets.without_head()
  made["features"] = (10 * made["features"]).astype(stored)
  path = sets.saved(tmp_path / "a.npz", **made)
  for dtype in (np.float32, np.float64):
    features, _ = through([path], 7, dtype)
    np.testing.assert_array_equal(features, made["features"].astype(dtype), strict=True)


def test_a_thousand_shards_need_no_thousand_open_files(tmp_path):
  before = resource.getrlimit(resource.RLIMIT_NOFILE)
  for i in range(200):
    sets.saved(tmp_path / f"{i}.npz", **sets.without_head(2))
  resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 64, before[1]))
  try:
    assert len(through(tmp_path.iterdir(), 64)[1]) == 400
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
