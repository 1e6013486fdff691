"""One pass in any number of pieces, of any framework and dtype, inside jit and outside."""

import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import worlds
from moments_test import assert_oracle, assert_repeated, assert_same, of

import nc_jax as nc

K, D, N = worlds.K, worlds.D, worlds.N
accumulation = sys.modules["nc_jax.metrics.accumulation"]
sharding = sys.modules["nc_jax.metrics.sharding"]


@pytest.fixture
def small_chunks(monkeypatch):
  """Chunks of 32 rows, so that small worlds exercise the scan.

  Its tests use widths that no other test does: a traced program remembers its chunks.
  """
  monkeypatch.setattr(sharding, "chunk_rows", lambda dim=1: 32)


@pytest.fixture
def small_slices(monkeypatch):
  """Chunks of 16 rows, and so slices of 128; widths as above."""
  monkeypatch.setattr(sharding, "chunk_rows", lambda dim=1: 16)


@pytest.mark.parametrize("std", [1.0, 1e-4])
def test_any_split_is_the_same(std):
  world = worlds.clusters(std=std, offset=1.0, missing=(5,), single=(2,))
  order = np.random.default_rng(0).permutation(N)
  for cuts in ((), (1,), (50, 100, 150)):
    moments = nc.ClassMoments.empty(K, D)
    for part in np.split(order, cuts):
      moments = nc.accumulate(moments, world.features[part], world.labels[part])
    assert_oracle(moments, world.features, world.labels)


def test_sorted_by_class_is_the_same():
  world = worlds.clusters(std=1e-4)
  order = np.argsort(world.labels, kind="stable")
  assert_oracle(of(world, order), world.features, world.labels)


@pytest.mark.parametrize("size", [31, 32, 33, 65, N])  # n − 1, n, n + 1, 2n + 1 rows of 32
def test_chunks(small_chunks, size):
  world = worlds.clusters(dim=13, std=1e-4)
  assert_oracle(of(world, slice(0, size)), world.features[:size], world.labels[:size])


@pytest.mark.parametrize("size", [0, 127, 128, 129, N])
def test_slices_of_numpy_cover_every_row_once_in_one_shape(small_slices, size):
  rows, labels = np.arange(size)[:, None], np.arange(size)
  parts = list(sharding.host_slices((rows, labels, None), least=100))
  assert len({part[0].shape for part, _ in parts}) == 1 and not parts[0][1]
  assert all(len(part[0]) <= 128 and part[2] is None for part, _ in parts)
  for index in (0, 1):
    covered = np.concatenate([part[index][skip:].ravel() for part, skip in parts])
    np.testing.assert_array_equal(covered, labels)
  ((whole, skip),) = sharding.host_slices((jnp.asarray(rows), labels), least=1)
  assert skip is None and whole[0].shape == rows.shape


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_in_slices_equals_a_device_array_in_one_piece(small_slices, dtype):
  world = worlds.clusters(dim=15, std=1e-3, missing=(2,))
  features, labels = world.features.astype(dtype), jnp.asarray(world.labels)
  keep = np.random.default_rng(0).random(N) < 0.7
  head = nc.Head(world.weight, world.bias)
  for mask in (None, keep):
    results = []
    for x in (features, jnp.asarray(world.features)):
      moments = nc.ClassMoments.of(x, labels, K, mask=mask)
      decisions = nc.decide(x, labels, moments, head, mask)
      covariance = nc.metrics.within_covariance(x, labels, moments, mask)
      results.append([moments, decisions, covariance, nc.nearest_class(x, moments)])
    assert_same(results[0].pop(0), results[1].pop(0))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(b).max())


def test_slices_leave_the_moments_that_came_in_alone(small_slices):
  world = worlds.clusters(dim=16)
  before = of(world)
  after = nc.accumulate(before, world.features, world.labels)
  np.testing.assert_array_equal(after.count, 2 * np.asarray(before.count))  # not donated away


@pytest.mark.parametrize("dim", [14, 301])  # 301 is two panels
@pytest.mark.parametrize("num_classes", [32, 33, 100])
def test_chunks_of_fewer_rows_than_classes(small_chunks, num_classes, dim):
  rng = np.random.default_rng(0)
  labels = rng.integers(0, num_classes, N).astype(np.int32)
  features = rng.normal(size=(num_classes, dim))[labels] + 1e-3 * rng.normal(size=(N, dim))
  features = features.astype(np.float32)
  moments = nc.ClassMoments.empty(num_classes, dim)
  for part in (slice(0, 100), slice(100, 100), slice(100, N)):
    moments = nc.accumulate(moments, features[part], labels[part])
  assert_oracle(moments, features, labels)
  without = nc.ClassMoments.of(features, labels, num_classes, scatter=False)
  np.testing.assert_allclose(without.class_means, moments.class_means, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(without.spread, moments.spread, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("num_classes", [K, 2 * N])  # dense, and a row per class in the batch
def test_a_masked_example_is_an_absent_one(num_classes):
  world = worlds.clusters()
  keep = np.random.default_rng(0).random(N) < 0.6
  features, labels = world.features.copy(), world.labels.copy()
  features[~keep] = np.nan  # whatever padding holds
  labels[~keep] = -1

  def moments(features, labels, mask):
    return nc.ClassMoments.of(features, labels, num_classes, mask=mask)

  expected = moments(world.features[keep], world.labels[keep], None)
  for mask in (keep, keep.astype(np.float32), keep.astype(np.int8)):
    assert_same(moments(features, labels, mask), expected)
  assert_same(moments(features, labels, ~keep & False), nc.ClassMoments.empty(num_classes, D))


@pytest.mark.parametrize("std", [0.1, 1e-4])
def test_wide_features_go_in_panels(small_chunks, std):
  world = worlds.clusters(dim=303, std=std, offset=1.0)  # no multiple of the number of panels
  moments = of(world)
  assert_oracle(moments, world.features, world.labels)
  np.testing.assert_array_equal(moments.scatter, moments.scatter.T)
  without = of(world, scatter=False)
  np.testing.assert_allclose(without.mean, moments.mean, atol=1e-6 * std)
  np.testing.assert_allclose(without.spread, moments.spread, rtol=1e-5)


class Foreign:
  """An array of a framework that is not imported here: NumPy's protocol only."""

  def __init__(self, array):
    self._array = array

  def __array__(self, dtype=None, copy=None):
    return np.asarray(self._array, dtype)


class Tensor(Foreign):
  """As torch's bfloat16 tensors look from outside: a tape to detach, DLPack, no NumPy."""

  detached = False

  def detach(self):
    self.detached = True
    return self

  def __array__(self, dtype=None, copy=None):
    raise TypeError("Got unsupported ScalarType BFloat16")

  def __dlpack__(self, **options):
    assert self.detached, "Can't export tensors that require gradient"
    return self._array.__dlpack__(**options)

  def __dlpack_device__(self):
    return self._array.__dlpack_device__()


class TestFrameworksAndDtypes:
  def test_numpy_jax_lists_and_foreign_arrays(self):
    world = worlds.clusters()
    expected = of(world)
    labels = world.labels.tolist()
    for features in (
      jnp.asarray(world.features),
      world.features.tolist(),
      Foreign(world.features),
      Tensor(jnp.asarray(world.features)),
    ):
      assert_same(nc.ClassMoments.of(features, labels, K), expected)

  @pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int16, np.uint64])
  def test_integer_labels_of_any_width(self, dtype):
    world = worlds.clusters()
    assert_same(of(world._replace(labels=world.labels.astype(dtype))), of(world))

  @pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.int8, np.float64])
  def test_features_are_converted_before_anything_else(self, dtype):
    world = worlds.clusters(offset=2.0)
    narrow = (world.features * 20).astype(dtype)
    exact = narrow.astype(np.float32)
    moments = of(world._replace(features=narrow))
    assert_repeated(moments, of(world._replace(features=exact)))

  def test_float64_needs_x64(self):
    world = worlds.clusters()
    with jax.enable_x64(True):
      moments = of(world)
      assert moments.mean.dtype == moments.scatter.dtype == np.float64
      assert_oracle(moments, world.features, world.labels, rtol=1e-13)


class TestUnderTransformations:
  def test_scan_equals_one_call(self):
    world = worlds.clusters(std=1e-3)
    batches = world.features.reshape(4, 50, D), world.labels.reshape(4, 50)

    def step(moments, batch):
      return nc.accumulate(moments, *batch), None

    moments, _ = jax.lax.scan(step, nc.ClassMoments.empty(K, D), batches)
    assert_same(moments, of(world))

  @pytest.mark.parametrize("num_classes", [K, 2 * N])
  def test_labels_out_of_range_are_dropped_and_counted_inside_jit(self, num_classes):
    world = worlds.clusters()
    labels = world.labels.copy()
    labels[[3, 50, 51]] = [-1, num_classes, 10**9]
    keep = np.ones(N, bool)
    keep[50] = False  # a masked example may carry any label
    jitted = jax.jit(lambda x, y, m: nc.ClassMoments.of(x, y, num_classes, mask=m))
    moments = jitted(world.features, labels, keep)
    assert moments.dropped == 2
    good = np.setdiff1d(np.arange(N), [3, 50, 51])
    expected = nc.ClassMoments.of(world.features[good], labels[good], num_classes)
    np.testing.assert_array_equal(moments.count, expected.count)
    np.testing.assert_allclose(moments.spread, expected.spread, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moments.scatter, expected.scatter, atol=1e-5)

  def test_one_compilation_per_shape(self):
    world = worlds.clusters()
    moments = nc.ClassMoments.empty(K, D)
    moments = nc.accumulate(moments, world.features[:40], world.labels[:40])
    before = accumulation._accumulate._cache_size()
    for start in (40, 80, 120):
      part = slice(start, start + 40)
      moments = nc.accumulate(moments, world.features[part], world.labels[part])
    assert accumulation._accumulate._cache_size() == before

  def test_donated_moments_give_the_same(self):
    world = worlds.clusters()
    moments = nc.accumulate(nc.ClassMoments.empty(K, D), *world[:2], donate=True)
    assert_same(moments, of(world))


def test_within_covariance_by_class_and_by_example():
  world = worlds.clusters(missing=(1,))
  moments = of(world)
  by_example = nc.metrics.within_covariance(*world[:2], moments, within="samples")
  np.testing.assert_allclose(by_example, moments.scatter / N, atol=1e-6)
  by_class = np.zeros((D, D))
  for k in np.unique(world.labels):
    by_class += np.cov(world.features[world.labels == k].astype(float), rowvar=False, ddof=0) / 6
  given = nc.metrics.within_covariance(*world[:2], moments)
  np.testing.assert_allclose(given, by_class, atol=1e-6)
