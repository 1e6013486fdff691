"""One device against four: the same numbers, and only the moments travel."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds
from jax.sharding import NamedSharding, PartitionSpec
from moments_test import assert_oracle, assert_same, of

import nc_jax as nc
from nc_jax.benchmarks import timing
from nc_jax.metrics import accumulation, pairwise, sharding

K, D, N = worlds.K, worlds.D, worlds.N


def spread(mesh, x, *axes):
  return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))


@pytest.mark.parametrize("axes", [(("a", "b"), None), (None, "a")], ids=str)
def test_moments_of_sharded_features(mesh, axes):
  # Sorted labels: every device sees other classes, and picks its own references.
  world = worlds.clusters(std=1e-4, offset=1.0)
  order = np.argsort(world.labels, kind="stable")
  world = world._replace(features=world.features[order], labels=world.labels[order])
  features = spread(mesh, world.features, *axes)
  moments = nc.ClassMoments.of(features, world.labels, K)
  assert_oracle(moments, world.features, world.labels)
  # More of the same, sharded and not, into moments that already hold references.
  more = nc.accumulate(moments, features, spread(mesh, world.labels, *axes[:1]))
  assert_same(more, nc.accumulate(moments, world.features, world.labels))


def test_masks_and_bad_labels_of_sharded_features(mesh):
  world = worlds.clusters()
  features = spread(mesh, world.features, "a")
  keep = np.random.default_rng(0).random(N) < 0.5
  masked = nc.ClassMoments.of(features, world.labels, K, mask=keep)
  assert_same(masked, of(world, keep))
  with pytest.raises(ValueError, match="labels must lie in"):
    nc.ClassMoments.of(features, world.labels - 1, K)


def test_only_the_moments_are_communicated(mesh):
  features = spread(mesh, np.zeros((4000, D), np.float32), ("a", "b"))
  moments = nc.ClassMoments.empty(K, D)
  split = sharding.split_of(features)
  lowered = accumulation._accumulate_sharded.lower(
    moments, features, jnp.zeros(4000, jnp.int32), None, *split, True
  )
  text = lowered.compile().as_text()
  moved = re.findall(r"= \(?(.*?)\)? all-reduce(?:-start)?\(", text)
  assert moved and not re.search("all-gather|all-to-all|collective-permute", text)
  numbers = sum(
    int(np.prod([int(n) for n in shape.split(",") if n]))
    for result in moved
    for shape in re.findall(r"[fsu]\d+\[([\d,]*)\]", result)
  )
  # references, counts, means, spread, scatter, dropped: once each.
  assert numbers <= 2 * K * D + 2 * K + D * D + 1


def test_report_of_sharded_features(mesh):
  world = worlds.clusters(std=0.1)
  single = nc.report(*world[:2], num_classes=K)
  features = spread(mesh, world.features, ("a", "b"))
  several = nc.report(features, world.labels, num_classes=K, ranks=False, mesh=mesh)
  assert {key for key in single if key not in several and key[:5] != "rank/"} == set()
  single = {key: single[key] for key in several}
  for key, value in single.items():
    np.testing.assert_allclose(several[key], value, rtol=1e-5, err_msg=key)


def test_decisions_of_sharded_features(mesh):
  world = worlds.clusters(std=2.0, missing=(3,))
  moments, head = of(world, scatter=False), nc.Head(world.weight, world.bias)
  features = spread(mesh, world.features, "b")
  single = nc.decide(*world[:2], moments, head)
  several = nc.decide(features, world.labels, moments, head)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), single, several)
  np.testing.assert_array_equal(
    nc.nearest_class(features, moments), nc.nearest_class(world.features, moments)
  )
  covariance = nc.metrics.within_covariance(features, world.labels, moments)
  expected = nc.metrics.within_covariance(*world[:2], moments)
  np.testing.assert_allclose(covariance, expected, atol=1e-6)


@pytest.mark.parametrize("tile, dim", [(K, 9), (2, 10)])  # 1 and 10 tiles, dealt to 4 devices
def test_pairs_over_devices(mesh, tile, dim, monkeypatch):
  monkeypatch.setattr(pairwise, "TILE", tile)
  moments = of(worlds.clusters(dim=dim, missing=(5,)))
  names = ("cdnv", "equiangular", "one_minus_cosine", "log")
  single = pairwise.mean_statistics(moments, names)
  several = pairwise.mean_statistics(moments, names, mesh=mesh)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), single, several)


def test_pmapped_observation(mesh):
  """The training loop's way: devices fold their own batches, then all_reduce and psum."""
  world = worlds.clusters(std=0.3)
  head = nc.Head(world.weight, world.bias)
  batches = world.features.reshape(4, 5, 10, D), world.labels.reshape(4, 5, 10)

  def observe(features, labels):
    moments = nc.ClassMoments.empty(K, D)
    moments, _ = jax.lax.scan(
      lambda m, batch: (nc.accumulate(m, *batch), None), moments, (features, labels)
    )
    moments = nc.all_reduce(moments, "batch")
    decisions, _ = jax.lax.scan(
      lambda d, batch: (d.merge(nc.decide(*batch, moments, head)), None),
      nc.Decisions.empty(moments, head),
      (features, labels),
    )
    return moments, jax.lax.psum(decisions, "batch")

  moments, decisions = jax.pmap(observe, axis_name="batch", out_axes=None)(*batches)
  assert_same(moments, of(world))
  expected = nc.decide(*world[:2], of(world), head)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), decisions, expected)


def test_a_mesh_of_explicit_axes_serves_as_well(four_devices):
  world = worlds.clusters()
  single = nc.report(*world[:2], num_classes=K, weight=world.weight, within="classes")
  explicit = jax.make_mesh((2, 2), ("a", "b"), devices=four_devices)
  assert explicit.explicit_axes
  labels = spread(explicit, world.labels, "a")
  for axes, y in ((("a", None), labels), (("a", "b"), world.labels), ((None, "b"), world.labels)):
    features = spread(explicit, world.features, *axes)
    options = {"weight": world.weight, "within": "classes", "mesh": explicit}
    several = nc.report(features, y, num_classes=K, **options)
    for key, value in single.items():
      np.testing.assert_allclose(several[key], value, rtol=2e-5, err_msg=key)
  moments = nc.accumulate(nc.ClassMoments.empty(K, D, mesh=explicit), features, labels)
  assert_same(jax.device_get(moments), of(world))
  with pytest.raises(ValueError, match="features inside jit lie on explicit axes"):
    jax.jit(lambda h: nc.ClassMoments.of(h, world.labels, K))(spread(explicit, world.features, "a"))
  with jax.set_mesh(explicit), pytest.raises(ValueError, match="measure outside of it"):
    nc.ClassMoments.of(spread(explicit, world.features, "a"), world.labels, K)


@pytest.mark.parametrize("within", ["classes", "samples"])
def test_a_second_pass_over_sharded_features(mesh, within):
  world = worlds.clusters()
  features = spread(mesh, world.features, ("a", "b"))
  moments = nc.ClassMoments.of(features, world.labels, K)  # on all devices too
  given = nc.metrics.within_covariance(features, world.labels, moments, within=within)
  expected = nc.metrics.within_covariance(*world[:2], of(world), within=within)
  np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-7)


def test_nothing_is_compiled_again_for_sharded_features(mesh):
  world = worlds.clusters()
  features = spread(mesh, world.features, "a")
  moments = nc.ClassMoments.of(features, world.labels, K)

  def everything():
    nc.accumulate(moments, features, world.labels)
    nc.decide(features, world.labels, moments)
    nc.nearest_class(features, moments)
    nc.metrics.within_covariance(features, world.labels, moments)

  everything()
  before = timing.programs()
  everything()
  assert timing.programs() == before


def test_inside_a_users_shard_map_that_checks_what_varies(four_devices, monkeypatch):
  monkeypatch.setattr(sharding, "chunk_rows", lambda dim=1: 16)
  monkeypatch.setattr(pairwise, "TILE", 4)
  world = worlds.clusters()
  mesh = jax.sharding.Mesh(np.array(four_devices), ("a",))
  rows, whole = PartitionSpec("a"), PartitionSpec()

  def local(features, labels):
    moments = nc.all_reduce(nc.ClassMoments.of(features, labels, K), "a")
    decisions = jax.lax.psum(nc.decide(features, labels, moments), "a")
    own = nc.metrics.pairwise.mean_statistics.__wrapped__(moments, ("cdnv",))["cdnv"].mean
    return moments, decisions, own, nc.nearest_class(features, moments)

  jax.clear_caches()
  local = jax.shard_map(local, mesh=mesh, in_specs=(rows, rows), out_specs=(whole,) * 3 + (rows,))
  moments, decisions, cdnv, nearest = jax.jit(local)(*world[:2])
  jax.clear_caches()
  monkeypatch.undo()
  expected = of(world)
  assert_same(moments, expected)
  assert decisions.ncc_wrong == nc.decide(*world[:2], expected).ncc_wrong
  np.testing.assert_allclose(cdnv, nc.measure(expected)["nc1/cdnv"], rtol=1e-6)
  np.testing.assert_array_equal(nearest, nc.nearest_class(world.features, expected))
