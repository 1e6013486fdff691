"""Moments split by columns over four devices: the numbers of whole ones, and nothing whole."""

import dataclasses
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import worlds
from jax.sharding import NamedSharding, PartitionSpec
from moments_test import assert_oracle, assert_same

import nc_jax as nc
from nc_jax.metrics import (
  accumulation,
  candidates,
  certainty,
  columns,
  moments,
  pairwise,
  variability,
)
from nc_jax.metrics.columns import Columns

decisions, report = (sys.modules[f"nc_jax.metrics.{name}"] for name in ("decisions", "report"))

K, D, N = 29, 8, 400  # more classes than dimensions; K divides by nothing
EVERY = ("a", "b")  # axes of the mesh
TEST_ONLY = {key for key, row in nc.METRICS.items() if "test" in row.needs}


@pytest.fixture(scope="module", autouse=True)
def small_pieces():
  """Tiles and chunks far smaller than K and N: whatever is larger in a program is a whole array.

  For all of the module, since a traced program remembers them; conftest.py forgets the programs.
  """
  with pytest.MonkeyPatch.context() as patch:
    rows = lambda dim=1: 16
    patch.setattr("nc_jax.metrics.sharding.chunk_rows", rows)
    patch.setattr(certainty, "chunk_rows", rows)
    patch.setattr(candidates, "CLASS_TILE", 3)
    patch.setattr(candidates, "_BLOCK", 2)
    patch.setattr(pairwise, "TILE", 8)
    patch.setattr(pairwise, "FEW", 0)
    yield


def laid(mesh, x, *axes):
  return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))


def world_of(**options):
  return worlds.clusters(num_classes=K, dim=D, size=N, missing=(5,), single=(3,), **options)


def split_of(mesh, world, part=slice(None), **options):
  features, labels = world.features[part], world.labels[part]
  return nc.ClassMoments.of(features, labels, world.num_classes, mesh=mesh, **options)


def assert_split(moments, num_classes=K, dim=D):
  """Every device holds D/4 columns of the means and the same rows of the scatter."""
  shapes = {
    "reference": (num_classes, dim // 4),
    "mean": (num_classes, dim // 4),
    "scatter": (dim // 4, dim),
    "count": (num_classes,),
    "spread": (num_classes,),
  }
  for name, shape in shapes.items():
    shards = getattr(moments, name).addressable_shards
    assert {shard.data.shape for shard in shards} == {shape}, name
    assert len({shard.device for shard in shards}) == 4, name


@pytest.mark.parametrize("std, offset", [(0.5, 0.0), (1e-5, 1.0)])
def test_every_metric(mesh, std, offset, monkeypatch):
  monkeypatch.setattr(columns, "WHOLE_BYTES", 0)
  world = world_of(std=std, offset=offset)
  expected = oracle.measure(*world[:2], K, *world[2:])
  features = laid(mesh, world.features, EVERY)
  given = {"num_classes": K, "weight": world.weight, "bias": world.bias, "mesh": mesh}
  values = nc.report(features, world.labels, **given)
  assert list(values) == [key for key in nc.METRICS if key not in TEST_ONLY]
  for key, value in expected.items():
    np.testing.assert_allclose(values[key], value, rtol=2e-5, err_msg=key)


class TestMoments:
  @pytest.mark.parametrize("std", [1.0, 1e-5])
  def test_merged_pieces(self, mesh, std):
    world = world_of(std=std, offset=1.0)
    order = np.argsort(world.labels, kind="stable")  # the pieces know different classes
    world = world._replace(features=world.features[order], labels=world.labels[order])
    parts = [split_of(mesh, world, part) for part in (slice(0, 70), slice(70, 71), slice(71, N))]
    merged = nc.merge(nc.merge(*parts[:2]), parts[2])
    assert_oracle(merged, world.features, world.labels)
    assert_split(merged)
    empty = nc.ClassMoments.empty(K, D, mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, nc.merge(empty, merged), merged)

  def test_equal_those_that_are_whole_and_relabel_as_they_do(self, mesh):
    world = world_of(std=1e-4)
    whole, split = split_of(None, world), split_of(mesh, world)
    assert_same(split, whole)
    np.testing.assert_array_equal(split.reference, whole.reference)
    # By rows on half of the devices, and by columns on half of them.
    for axes in (["b"], [None, "a"]):
      assert_same(split_of(mesh, world._replace(features=laid(mesh, world.features, *axes))), whole)
    label_map = np.arange(K) % 7
    coarse = split.relabel(label_map)
    assert_same(coarse, whole.relabel(label_map))
    assert_split(coarse, 7)
    assert_oracle(coarse, world.features, label_map[world.labels])

  def test_masks_and_labels_out_of_range(self, mesh):
    world = world_of()
    keep = np.random.default_rng(0).random(N) < 0.6
    features = np.where(keep[:, None], world.features, np.nan)
    expected = split_of(None, world, keep)
    for x in (features, laid(mesh, features, EVERY)):
      masked = nc.ClassMoments.of(x, world.labels, K, mask=keep, mesh=mesh)
      assert_same(masked, expected)
    labels = np.where(keep, world.labels, K)
    with pytest.raises(ValueError, match="labels must lie in"):
      nc.ClassMoments.of(world.features, labels, K, mesh=mesh)
    # Inside jit they are counted; the moments know there, too, that they are split.
    empty = nc.ClassMoments.empty(K, D, mesh=mesh)
    inside = jax.jit(nc.accumulate)(empty, world.features, labels)
    assert inside.dropped == np.sum(~keep)
    assert_same(dataclasses.replace(inside, dropped=masked.dropped), expected)
    assert_split(inside)

  def test_given_references_and_donation(self, mesh):
    world = world_of(std=0.1)
    reference = np.random.default_rng(0).normal(size=(K, D))
    split = split_of(mesh, world, slice(0, 100), reference=reference)
    np.testing.assert_array_equal(split.reference, reference.astype(np.float32))
    split = nc.accumulate(split, world.features[100:], world.labels[100:], donate=True, adopt=False)
    assert_same(split, split_of(None, world))
    assert_split(split)

  def test_within_covariance(self, mesh):
    world = world_of()
    given = nc.metrics.within_covariance(*world[:2], split_of(mesh, world))
    assert {shard.data.shape for shard in given.addressable_shards} == {(D // 4, D)}
    expected = nc.metrics.within_covariance(*world[:2], split_of(None, world))
    np.testing.assert_allclose(given, expected, atol=1e-6)


class TestDecisions:
  def test_equal_those_about_whole_moments(self, mesh):
    world = world_of(std=2.0)
    head = nc.Head(world.weight, world.bias)
    whole, split = (split_of(m, world, scatter=False) for m in (None, mesh))
    expected = nc.decide(*world[:2], whole, head)
    assert 0 < expected.ncc_wrong < N and 0 < expected.mismatch < N
    for x in (world.features, laid(mesh, world.features, EVERY)):
      found = nc.decide(x, world.labels, split, head)
      jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)
      nearest = nc.nearest_class(x, split)
      np.testing.assert_array_equal(nearest, nc.nearest_class(world.features, whole))
    ratio = variability.streamed_pinv_ratio(split, found)
    expected = oracle.measure(*world[:2], K)["nc1/pinv"]
    np.testing.assert_allclose(ratio, expected, rtol=1e-5)

  @pytest.mark.parametrize("apart", [1e-3, 1e-4])
  @pytest.mark.parametrize("step", [1, 5])  # from a class to its sibling: on the same device or not
  def test_of_classes_far_closer_to_each_other_than_to_the_rest(self, mesh, step, apart):
    world = worlds.siblings(apart)
    place = np.arange(world.num_classes).reshape(-1, step).T.reshape(-1)  # of each class
    labels = place[world.labels].astype(np.int32)
    split = nc.ClassMoments.of(world.features, labels, world.num_classes, mesh=mesh)
    for x in (world.features, laid(mesh, world.features, EVERY)):
      np.testing.assert_array_equal(nc.nearest_class(x, split), labels)
      assert nc.decide(x, labels, split).ncc_wrong == 0
    weight = world.weight[np.argsort(place)]
    head = nc.Head(weight, -(weight.astype(np.float64) ** 2).sum(1) / 2)
    if apart > 1e-4:  # closer than that float32 cannot hold such a head
      assert nc.decide(world.features, labels, split, head).classifier_wrong == 0
    cdnv = oracle.measure(world.features, labels, world.num_classes)["nc1/cdnv"]
    np.testing.assert_allclose(nc.measure(split)["nc1/cdnv"], cdnv, rtol=1e-5)

  def test_of_classes_without_means(self, mesh):
    empty = nc.ClassMoments.empty(K, D, mesh=mesh)
    assert not np.any(nc.nearest_class(np.ones((8, D), np.float32), empty))
    single = split_of(mesh, world_of(), slice(0, 1))
    label = int(np.argmax(single.count))
    assert np.all(np.asarray(nc.nearest_class(np.ones((8, D), np.float32), single)) == label)

  def test_the_first_of_equals_on_whatever_device(self, mesh):
    features = np.repeat(np.eye(2, D, dtype=np.float32), 8, axis=0)
    split = nc.ClassMoments.of(features, np.arange(16) + 2, K, mesh=mesh)
    nearest = nc.nearest_class(features, split)
    np.testing.assert_array_equal(nearest, np.repeat([2, 10], 8))


def test_test_collapse(mesh, monkeypatch):
  monkeypatch.setattr(columns, "WHOLE_BYTES", 0)
  train, test = worlds.clusters(std=0.8), worlds.clusters(std=1.0)  # fewer classes than dimensions
  expected = oracle.test_collapse(train[:2], test[:2], worlds.K, train.weight, train.bias)
  given = {"num_classes": worlds.K, "weight": train.weight, "bias": train.bias, "mesh": mesh}
  values = nc.test_collapse(*train[:2], *test[:2], **given)
  assert set(values) == set(expected) and 0 < values["test/ncc_error"] < 1
  for key, value in expected.items():
    np.testing.assert_allclose(values[key], value, rtol=2e-5, err_msg=key)


class TestSizes:
  def test_no_program_holds_or_moves_a_whole_array(self, mesh):
    """In what a device runs all but its own examples is smaller than [K, D]."""
    split = nc.ClassMoments.empty(K, D, mesh=mesh)
    head = nc.Head(split.mean, jnp.zeros(K))
    x, y = laid(mesh, np.zeros((N, D), np.float32), EVERY), laid(mesh, np.zeros(N, int), EVERY)
    about = (split, head, None, jnp.zeros(K))
    weighing = {"within": "samples", "between": "classes"}
    by_rows = {"by_rows": True}
    programs = {
      "accumulate": accumulation._accumulate_split.lower(
        split, x, y, None, None, adopt=True, by_rows=True
      ),
      "merge": moments._merge.lower(split, split),
      "relabel": moments._relabel.lower(split, jnp.zeros(K, jnp.int32), K - 1),
      "covariance": accumulation._covariance.lower(x, y, None, None, split, "classes", True),
      "radii": certainty.radii.lower(split, head),
      "decide": decisions._decide_split.lower(x, y, None, None, about, **by_rows),
      "nearest": decisions._nearest_split.lower(x, split, True),
      "variability": variability.measure.lower(split, global_mean="classes", **weighing),
      "the rest of measure": report._measure_rest.lower(
        split, head, None, None, ("classes", 1, 0, 1.0, True, split.columns)
      ),
    }
    for name, program in programs.items():
      text = program.compile().as_text()
      shapes = {tuple(map(int, s.split(","))) for s in re.findall(r"f32\[([\d,]+)\]", text)}
      assert (K, D // 4) in shapes, name
      too_large = {s for s in shapes if np.prod(s) >= K * D and s != (N // 4, D)}
      assert not too_large, (name, too_large)

  def test_a_mesh_that_does_not_divide_is_refused(self, mesh):
    with pytest.raises(ValueError, match="dim = 9 and 4 devices: take a mesh of 1 or 3"):
      nc.ClassMoments.empty(K, 9, mesh=mesh)
    with pytest.raises(TypeError, match="mesh must be a jax.sharding.Mesh; got list"):
      nc.ClassMoments.empty(K, D, mesh=jax.devices())

  def test_whole_and_split_moments_do_not_mix(self, mesh):
    split, whole = nc.ClassMoments.empty(K, D, mesh=mesh), nc.ClassMoments.empty(K, D)
    with pytest.raises(ValueError, match="both are whole, or split over the same mesh"):
      nc.merge(split, whole)
    with pytest.raises(ValueError, match="all_reduce merges moments that are whole"):
      nc.all_reduce(split, "a")

  def test_too_wide_to_be_decomposed(self, mesh, monkeypatch):
    wide = 2 * D  # of its own: a traced program remembers the limit
    world = worlds.clusters(num_classes=K, dim=wide, size=N)
    monkeypatch.setattr(columns, "GATHER_BYTES", 4 * wide**2 - 1)
    with pytest.raises(ValueError, match="dim = 16 is too large .* pass scatter=False"):
      split_of(mesh, world)
    split = split_of(mesh, world, scatter=False)
    assert not split.decomposable and split_of(None, world).decomposable
    decided = nc.decide(*world[:2], split)
    assert decided.whitened is None
    values = variability.measure(split, decided)
    assert "nc1/trace_ratio" in values and not {"rank/between", "nc1/pinv"} & set(values)

  @pytest.mark.parametrize("num_classes, scatter, is_split", [(1000, True, 0), (20_000, True, 1)])
  def test_report_splits_beyond_a_stated_size(self, mesh, num_classes, scatter, is_split):
    features = np.broadcast_to(np.float32(0), (1, 8192))  # D² floats are 256 MiB
    found = columns.mesh_beyond(mesh, num_classes, features, scatter)
    assert found is (mesh if is_split else None)
    assert columns.mesh_beyond(None, num_classes, features, scatter) is None


def test_triangle_of_rank_deficient_rows(mesh):
  """A QR, tile by tile, loses no direction that a Gram matrix would: condition 1e5 in float32."""
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(K, D)) * np.geomspace(1, 1e-5, D) @ worlds.rotation(D)
  rows[:, 0] = 0
  rows = rows.astype(np.float32)
  split = Columns(mesh)
  triangle = jax.jit(split.triangle)(split.put(rows, split.wide))
  values = np.linalg.svd(rows.astype(float), compute_uv=False)
  found = np.linalg.svd(np.asarray(triangle, float), compute_uv=False)
  np.testing.assert_allclose(found, values, rtol=1e-6, atol=3e-7 * values[0])
  np.testing.assert_allclose(np.sort(found)[1:], np.sort(values)[1:], rtol=0.05)
