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
