"""Features are read where they lie, wherever that is, and the numbers are the same."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nc_jax as nc
from nc_jax.metrics import in_place

K = 5
sharding = sys.modules["nc_jax.metrics.sharding"]


@pytest.fixture(autouse=True)
def small_arrays_too(monkeypatch):
  if jax.default_backend() != "cpu":
    pytest.skip("only a CPU reads features where they lie")
  monkeypatch.setattr(in_place, "LEAST", 2**20)


def test_batches_that_begin_anywhere_share_a_program(monkeypatch):
  monkeypatch.setattr(in_place, "LEAST", 2**25)
  features, labels, _ = world(3000, 100)
  empty = nc.ClassMoments.empty(K, 100)
  kernel = sys.modules["nc_jax.metrics.accumulation"]._accumulate
  nc.accumulate(empty, placed(features, 0), labels)
  programs = kernel._cache_size()
  for offset in (4, 16, 60):
    nc.accumulate(empty, placed(features, offset), labels)
  assert kernel._cache_size() == programs


def placed(x, offset):
  """A copy of x that begins `offset` bytes after a line."""
  memory = np.full(x.nbytes + 2 * in_place.LINE, 0xFF, np.uint8)  # nan, whatever lies beside it
  begin = -memory.ctypes.data % in_place.LINE + offset
  copy = memory[begin : begin + x.nbytes].view(x.dtype).reshape(x.shape)
  copy[...] = x
  return copy


def world(n, d, dtype=np.float32):
  rng = np.random.default_rng(0)
  labels = rng.integers(K, size=n)
  features = rng.normal(size=(K, d))[labels] + rng.normal(size=(n, d))
  return features.astype(dtype), labels, rng.random(n) < 0.8


def results(features, labels, mask):
  """All that is ever read from features, as a list of arrays."""
  dim = features.shape[1]
  moments = nc.ClassMoments.of(features, labels, K, mask=mask)
  head = nc.Head(np.eye(K, dim, dtype=np.float32))
  decisions = nc.decide(features, labels, moments, head, mask)
  covariance = nc.metrics.within_covariance(features, labels, moments, mask)
  nearest = nc.metrics.nearest_class(features, moments)
  return jax.tree.leaves((moments, decisions, covariance, nearest))


def assert_equal(ours, theirs):
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("n, d, masked", [(3000, 96, False), (20_011, 17, True)])
def test_every_offset_gives_the_same_bits(n, d, masked):
  features, labels, mask = world(n, d)
  mask = mask if masked else None
  expected = results(placed(features, 0), labels, mask)
  for offset in range(4, in_place.LINE, 4):
    assert_equal(results(placed(features, offset), labels, mask), expected)


@pytest.mark.parametrize("n, d", [(1, 1), (31, 16)])
def test_few_rows(n, d, monkeypatch):
  monkeypatch.setattr(in_place, "LEAST", 0)
  features, labels, mask = world(n, d)
  expected = results(placed(features, 0), labels, mask)
  for offset in (4, 16, 60):
    assert in_place.is_read_there(placed(features, offset))
    assert_equal(results(placed(features, offset), labels, mask), expected)


def test_slices_of_more_numbers_than_can_be_counted(monkeypatch):
  """In place too, slice by slice, of which the last starts early."""
  features, labels, mask = world(40_003, 18)
  monkeypatch.setattr(in_place, "MOST", 9_001 * 18)
  monkeypatch.setattr(in_place, "LEAST", 0)
  misplaced = placed(features, 8)
  parts = list(sharding.host_slices((misplaced, labels, mask), 1))
  assert len(parts) == 5 and all(isinstance(part[0], in_place.Rows) for part, _ in parts)
  ours, theirs = results(misplaced, labels, mask), results(jnp.asarray(features), labels, mask)
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16, np.int8, np.uint16])
@pytest.mark.parametrize("offset", [0, 2, 16])
def test_nothing_is_copied(dtype, offset):
  features, _, _ = world(1000, 1100, dtype)
  features = placed(features, offset // np.dtype(dtype).itemsize * np.dtype(dtype).itemsize)
  (there,) = in_place.put((features,))
  begins = features.ctypes.data
  if isinstance(there, in_place.Rows):
    begins -= int(there.before) * features.itemsize
    there = there.memory
  assert there.dtype == features.dtype and there.unsafe_buffer_pointer() == begins
  taken = jax.jit(in_place.take, static_argnums=2)(in_place.put((features,))[0], 3, 5)
  np.testing.assert_array_equal(taken, features[3:8])


def test_the_owner_lives_as_long_as_its_rows():
  there = in_place.put((placed(np.ones((1000, 300), np.float32), 16),))[0]
  np.empty((1000, 300), np.float32).fill(7)  # would take the memory, were it free
  np.testing.assert_array_equal(in_place.take(there, 0, 1000), 1)


COPIED = {
  "by columns": lambda x: np.asfortranarray(x),
  "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
  "some columns": lambda x: np.concatenate([x, x], axis=1)[:, : x.shape[1]],
  "from the end": lambda x: x[::-1].copy()[::-1],
  "wider": lambda x: x.astype(np.float64),
  "between two numbers": lambda x: placed(x, 6),
}


@pytest.mark.parametrize("name", COPIED)
def test_other_layouts_are_copied(name):
  features, labels, mask = world(3000, 98)
  other = COPIED[name](features)
  assert not in_place.is_read_there(other)
  assert_equal(results(other, labels, mask), results(placed(features, 0), labels, mask))
