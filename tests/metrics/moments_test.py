"""The laws of class moments: what any split, order, padding or renaming must leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import worlds

import nc_jax as nc

K, D, N = worlds.K, worlds.D, worlds.N


def of(world, part=slice(None), **options):
  return nc.ClassMoments.of(world.features[part], world.labels[part], world.num_classes, **options)


def assert_same(a, b, rtol=1e-5):
  """Equal moments up to rounding, whatever their references; scales are those of the spread."""
  np.testing.assert_array_equal(a.count, b.count)
  size = float(np.sqrt(np.max(b.spread) + 1e-30))
  distance = (a.reference - b.reference) + (a.mean - b.mean)
  distance = np.where(np.asarray(b.count)[:, None] > 0, distance, 0)
  np.testing.assert_allclose(distance, 0, atol=rtol * size)
  np.testing.assert_allclose(a.spread, b.spread, rtol=rtol, atol=rtol * size**2 * 1e-3)
  if b.scatter is not None:
    np.testing.assert_allclose(a.scatter, b.scatter, atol=rtol * float(np.max(b.scatter)) + 1e-30)
  assert int(a.dropped) == int(b.dropped)


def assert_repeated(ours, theirs):
  """The same bits of what is done twice; a GPU adds up in no fixed order, and so rounds anew."""
  if jax.default_backend() == "cpu":
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    return
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.max(np.abs(b)))


def assert_oracle(moments, features, labels, rtol=1e-6):
  count, mean, spread, scatter = oracle.class_moments(features, labels, moments.num_classes)
  np.testing.assert_array_equal(moments.count, count)
  exact = np.asarray(moments.reference, np.float64) + np.asarray(moments.mean, np.float64)
  exact = np.where(count[:, None] > 0, exact, 0)
  typical = np.sqrt(spread.sum() / count.sum())
  np.testing.assert_allclose(exact, mean, atol=rtol * typical)
  np.testing.assert_allclose(moments.spread, spread, rtol=rtol, atol=rtol * typical**2)
  pooled = scatter.sum(0)
  np.testing.assert_allclose(moments.scatter, pooled, atol=rtol * np.linalg.norm(pooled))
  # One law inside the state: the spread is the trace of the scatter.
  np.testing.assert_allclose(np.trace(moments.scatter), moments.spread.sum(), rtol=rtol)


@pytest.mark.parametrize("std", [1.0, 1e-3, 1e-5])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_moments_are_exact_to_rounding_whatever_the_offset(std, offset):
  # The offset rounds the features themselves, which the oracle sees too.
  world = worlds.clusters(std=std * (1 + offset), offset=offset, missing=(1,), single=(3,))
  assert_oracle(of(world), world.features, world.labels)
  halves = nc.merge(of(world, slice(0, 90)), of(world, slice(90, N)))
  assert_oracle(halves, world.features, world.labels)


def test_merge_is_commutative_associative_and_has_an_identity():
  world = worlds.clusters(std=1e-3, missing=(0,))
  a, b, c = (of(world, part) for part in (slice(0, 20), slice(20, 110), slice(110, N)))
  empty = nc.ClassMoments.empty(K, D)
  assert_same(nc.merge(a, b), nc.merge(b, a))
  assert_same(nc.merge(nc.merge(a, b), c), nc.merge(a, nc.merge(b, c)))
  for merged in (nc.merge(a, empty), nc.merge(empty, a)):
    jax.tree.map(np.testing.assert_array_equal, merged, a)  # to the bit


def test_merge_keeps_the_references_of_the_first():
  world = worlds.clusters()
  a, b = of(world, slice(0, 100)), of(world, slice(100, N))
  seen = np.asarray(a.count) > 0
  np.testing.assert_array_equal(nc.merge(a, b).reference[seen], a.reference[seen])


def test_given_references_are_kept_and_change_nothing():
  world = worlds.clusters(std=0.1)
  reference = np.random.default_rng(0).normal(size=(K, D))
  moments = of(world, reference=reference)
  np.testing.assert_array_equal(moments.reference, reference.astype(np.float32))
  assert_same(moments, of(world))
  with pytest.raises(ValueError, match=r"reference must have shape \[K, D\] = \[7, 12\]"):
    of(world, reference=reference.T)


def test_moments_with_and_without_scatter_do_not_mix():
  world = worlds.clusters()
  without = of(world, scatter=False)
  assert without.scatter is None
  np.testing.assert_allclose(without.spread, of(world).spread, rtol=1e-5)
  with pytest.raises(ValueError, match="with and without scatter"):
    nc.merge(without, of(world))
  with pytest.raises(ValueError, match=r"got \[7, 12\] and \[7, 11\]"):
    nc.merge(of(world), nc.ClassMoments.empty(K, D - 1))


def test_class_means_and_sizes():
  world = worlds.clusters(missing=(2,))
  moments = of(world)
  assert (moments.num_classes, moments.dim) == (K, D)
  mean = oracle.class_moments(world.features, world.labels, K)[1]
  np.testing.assert_allclose(moments.class_means, mean, atol=1e-6)
  with pytest.raises(ValueError, match="num_classes must be a positive integer; got 0"):
    nc.ClassMoments.empty(0, 3)
  with pytest.raises(ValueError, match="dim must be a positive integer; got 2.0"):
    nc.ClassMoments.empty(3, 2.0)


class TestRelabel:
  label_map = (0, 1, 1, 0, 2, 2, 1)

  @pytest.mark.parametrize("std", [1.0, 1e-4])
  def test_coarse_moments_need_no_data(self, std):
    world = worlds.clusters(std=std, offset=3.0, missing=(4, 5))  # coarse class 2 is empty too
    coarse = of(world).relabel(self.label_map)
    assert coarse.num_classes == 3
    assert_oracle(coarse, world.features, np.asarray(self.label_map)[world.labels])

  def test_a_permutation_renames_and_nothing_else(self):
    moments = of(worlds.clusters())
    order = np.array([3, 0, 6, 1, 2, 5, 4])
    renamed = moments.relabel(order)
    np.testing.assert_array_equal(renamed.count[order], moments.count)
    np.testing.assert_array_equal(renamed.reference[order], moments.reference)
    np.testing.assert_allclose(renamed.mean[order], moments.mean, rtol=1e-6)  # n mean / n
    np.testing.assert_allclose(renamed.scatter, moments.scatter, rtol=1e-6)

  def test_relabelled_moments_go_on_accumulating(self):
    world = worlds.clusters(std=1e-3)
    coarse_labels = np.asarray(self.label_map)[world.labels]
    first = of(world, slice(0, 120)).relabel(self.label_map)
    both = nc.accumulate(first, world.features[120:], coarse_labels[120:])
    assert_oracle(both, world.features, coarse_labels)

  @pytest.mark.parametrize(
    "label_map, error, words",
    [
      ([0, 1], ValueError, r"shape \[K\] = \[7\]; got \[2\]"),
      ([0, 1, 2, 3, 4, 5, -1], ValueError, r"must lie in \[0, 6\); got -1 to 5"),
      ([0.0] * 7, TypeError, "must hold integers; got dtype float64"),
    ],
  )
  def test_bad_maps(self, label_map, error, words):
    with pytest.raises(error, match=words):
      nc.ClassMoments.empty(K, D).relabel(label_map)


@pytest.mark.usefixtures("four_devices")
@pytest.mark.parametrize("mapped", ["pmap", "vmap"])
def test_all_reduce_equals_merging(mapped):
  world = worlds.clusters(std=1e-4, offset=1.0)
  # The second part lacks class 6: references differ, and one is missing.
  parts = [np.flatnonzero(world.labels != 6)[:50], np.arange(100, 150), np.arange(150, 200)]
  parts = [of(world, part) for part in (np.arange(0, 50), *parts)]
  stack = jax.tree.map(lambda *x: jnp.stack(x), *parts)
  over = {"pmap": jax.pmap, "vmap": jax.vmap}[mapped]
  reduced = over(lambda m: nc.all_reduce(m, "batch"), axis_name="batch")(stack)
  merged = parts[0]
  for part in parts[1:]:
    merged = nc.merge(merged, part)
  for device in (0, 3):
    assert_same(jax.tree.map(lambda x, i=device: x[i], reduced), merged)


def test_all_reduce_of_constant_features_is_exactly_constant():
  features = np.full((8, D), 3.3, np.float32)
  parts = [nc.ClassMoments.of(features[:n], np.arange(n) % 2, 2) for n in (3, 5, 7, 8)]
  stack = jax.tree.map(lambda *x: jnp.stack(x), *parts)
  reduced = jax.vmap(lambda m: nc.all_reduce(m, "x"), axis_name="x")(stack)
  assert not np.any(reduced.spread) and not np.any(reduced.mean)
