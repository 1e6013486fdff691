"""NC2 by hand, by tiles, and where naive formulas cancel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

import nc_jax as nc
from nc_jax.metrics import geometry, pairwise

ALL = ("one_minus_cosine", "equiangular", "log", "riesz", "cdnv")


def everyone(rows):
  return jnp.ones(len(rows), bool)


def statistics(*args, **options):
  """Traced anew, because the tests change TILE and FEW."""
  return jax.jit(lambda: pairwise.vector_statistics.__wrapped__(*args, **options))()


def test_by_hand():
  rows = jnp.asarray([[3.0, 0], [0, 4], [0, -5]])  # norms 3 4 5, cosines 0 0 −1
  assert geometry.equinorm(rows, everyone(rows)) == pytest.approx(1 / 4)
  assert geometry.equinorm(rows, everyone(rows), norm_ddof=0) == pytest.approx((2 / 3) ** 0.5 / 4)
  assert geometry.equiangular(rows, everyone(rows)) == pytest.approx(1 / 2)
  assert geometry.angle_std(rows, everyone(rows)) == pytest.approx(2**0.5 / 3)
  # Six ordered pairs: the sum of squares 6 · 2/9 over 6 − 1.
  assert geometry.angle_std(rows, everyone(rows), pair_ddof=1) == pytest.approx((4 / 15) ** 0.5)
  pairs = pairwise.vector_statistics(rows, everyone(rows), ("log", "riesz"), riesz_s=2.0)
  distances = np.array([2, 2, 4]) ** 0.5
  assert pairs["log"].mean == pytest.approx(-np.log(distances).mean(), rel=1e-6)
  assert pairs["riesz"].mean == pytest.approx((1 / distances**2).mean(), rel=1e-6)


@pytest.mark.parametrize("num_classes, dim", [(5, 9), (30, 9)])
def test_etf_error(num_classes, dim):
  # 30 classes in 9 dimensions go through the [D, D] Gram matrices, 5 through the tiles.
  rng = np.random.default_rng(0)
  left, right = rng.normal(size=(2, num_classes, dim))
  present = np.arange(num_classes) != 3
  product = left[present] @ right[present].T
  ideal = (np.eye(num_classes - 1) - 1 / (num_classes - 1)) / np.sqrt(num_classes - 2)
  for sign in (1, -1):  # a negative coefficient takes the other branch
    expected = np.linalg.norm(sign * product / np.linalg.norm(product) - ideal)
    value = geometry.etf_error(jnp.float32(left), jnp.float32(sign * right), present)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_etf_error_keeps_its_digits_near_zero():
  rng = np.random.default_rng(0)
  rows = np.float32(worlds.simplex(5, 9) + 1e-5 * rng.normal(size=(5, 9)))
  gram = rows.astype(np.float64) @ rows.T.astype(np.float64)
  ideal = (np.eye(5) - 1 / 5) / 2
  expected = np.linalg.norm(gram / np.linalg.norm(gram) - ideal)
  assert expected < 1e-4
  # The entries are good to 6e-8; √(2 − 2 cos) would be good to √1e-7 = 3e-4.
  value = geometry.etf_error(jnp.asarray(rows), jnp.asarray(rows), everyone(rows))
  np.testing.assert_allclose(value, expected, atol=2e-7)


def test_etf_error_has_a_floor_when_there_are_too_many_classes():
  present = jnp.ones(30, bool)
  rows = jnp.float32(np.random.default_rng(0).normal(size=(30, 9)))
  floor = np.sqrt(2) * np.sqrt(1 - np.sqrt(9 / 29))
  assert floor < geometry.etf_error(rows, rows, present) < 1.2 * floor


@pytest.mark.parametrize("few", [0, pairwise.FEW])  # by Gram matrix where safe; outright
def test_nearly_parallel_vectors(few, monkeypatch):
  """Uncentred classifier rows share a direction: cosines 1 − 1e-8 and their spread."""
  monkeypatch.setattr(pairwise, "FEW", few)
  rng = np.random.default_rng(0)
  rows = np.float32(rng.normal(size=8) + 1e-4 * rng.normal(size=(6, 8)))
  exact = rows.astype(np.float64)
  units = exact / np.linalg.norm(exact, axis=1)[:, None]
  square = ((units[:, None] - units) ** 2).sum(-1)[np.triu_indices(6, 1)]
  pairs = statistics(rows, everyone(rows), ALL, variances=jnp.ones(6))
  # Units are rounded to 6e-8 beside differences of 1e-4.
  np.testing.assert_allclose(pairs["one_minus_cosine"].mean, square.mean() / 2, rtol=1e-3)
  np.testing.assert_allclose(pairs["one_minus_cosine"].variance, square.var() / 4, rtol=3e-3)
  np.testing.assert_allclose(pairs["log"].variance, np.var(np.log(square)) / 4, rtol=3e-3)
  distance = ((exact[:, None] - exact) ** 2).sum(-1)[np.triu_indices(6, 1)]
  np.testing.assert_allclose(pairs["cdnv"].mean, (1 / distance).mean(), rtol=1e-5)


@pytest.mark.parametrize("tile, few", [(1, 0), (3, pairwise.FEW), (4, 0), (11, 0)])
def test_tiles_change_nothing(tile, few, monkeypatch):
  rng = np.random.default_rng(0)
  rows = np.float32(rng.normal(size=(11, 5)))
  rows[7] = rows[2] + 1e-3  # a close pair in one tile only
  present = np.arange(11) != 4
  variances = jnp.asarray(rng.random(11), jnp.float32)
  names = (*ALL, "nearest")
  whole = statistics(rows, present, names, variances=variances)
  distances = ((rows[:, None] - rows) ** 2).sum(-1)
  distances[:, 4] = distances[np.eye(11, dtype=bool)] = np.inf
  expected = np.where(present, distances.min(axis=1), np.inf)
  np.testing.assert_allclose(whole["nearest"], expected, rtol=1e-5)
  monkeypatch.setattr(pairwise, "TILE", tile)
  monkeypatch.setattr(pairwise, "FEW", few)
  tiled = statistics(rows, present, names, variances=variances)
  np.testing.assert_allclose(tiled["nearest"], expected, rtol=1e-5)
  for name in ALL:
    assert tiled[name].count == 45
    np.testing.assert_allclose(tiled[name].mean, whole[name].mean, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(tiled[name].variance, whole[name].variance, rtol=1e-4, err_msg=name)


def test_tiles_keep_a_small_spread_about_a_large_mean(monkeypatch):
  """Near collapse all pairs are nearly alike: most tiles are read once, about the others' mean."""
  rng = np.random.default_rng(0)
  rows = np.float32(7 * worlds.simplex(60, 256) + 1e-3 * rng.normal(size=(60, 256)))
  exact = rows / np.linalg.norm(rows.astype(np.float64), axis=1)[:, None]
  log = -np.log(((exact[:, None] - exact) ** 2).sum(-1)[np.triu_indices(60, 1)]) / 2
  assert log.std() < 1e-3 * abs(log.mean())
  monkeypatch.setattr(pairwise, "TILE", 8)
  monkeypatch.setattr(pairwise, "FEW", 0)
  found = statistics(rows, everyone(rows), ("log",))["log"]
  np.testing.assert_allclose(found.mean, log.mean(), rtol=3e-7)
  np.testing.assert_allclose(found.variance, log.var(), rtol=1e-4)


@pytest.mark.parametrize("tile", [1, pairwise.TILE])
@pytest.mark.parametrize("few", [0, pairwise.FEW])
def test_equal_and_opposite_vectors_are_exact(few, tile, monkeypatch):
  monkeypatch.setattr(pairwise, "FEW", few)
  monkeypatch.setattr(pairwise, "TILE", tile)
  rows = np.float32(np.random.default_rng(0).normal(size=(3, 8)))
  rows[1], rows[2] = rows[0], -3 * rows[0]
  present = np.array([True, True, False])
  pairs = statistics(rows, present, ALL, variances=jnp.ones(3))
  assert pairs["one_minus_cosine"].mean == 0
  assert pairs["log"].mean == pairs["riesz"].mean == pairs["cdnv"].mean == np.inf
  pairs = statistics(rows, ~present | (np.arange(3) == 0), ALL, variances=jnp.ones(3))
  assert pairs["log"].mean == pytest.approx(-np.log(2))


def test_equal_vectors_are_exact_where_a_product_made_them():
  """Compiled into one kernel with it, x·s − y·s may be the rounding error of an FMA."""
  rng = np.random.default_rng(0)
  scaled = jax.jit(lambda rows, s: statistics(rows * s[:, None], jnp.ones(6, bool), ("log",)))
  for _ in range(5):
    rows, s = (rng.normal(size=size).astype(np.float32) for size in ((6, 33), (6,)))
    rows[3], s[3] = rows[1], s[1]
    assert scaled(rows, s)["log"].mean == np.inf


def test_equal_coordinates_count_in_the_derivatives_of_distances():
  """Of vectors that differ in some coordinates alone, and of sums of which one term is equal."""
  reference = jnp.asarray(np.random.default_rng(0).integers(0, 2, (4, 5)) * 1.0)

  def loss(rows):
    return jnp.sum(jnp.sin(pairwise.squared_distances((reference, rows), (reference, rows))))

  def plain(rows):
    rows = reference + rows
    return jnp.sum(jnp.sin(jnp.sum((rows[:, None] - rows) ** 2, axis=2)))

  rows = jnp.zeros((4, 5)).at[0, 0].set(1.0)
  for derivative in (jax.grad, jax.hessian):
    np.testing.assert_allclose(derivative(loss)(rows), derivative(plain)(rows), atol=1e-5)


@pytest.mark.parametrize("tile, few", [(pairwise.TILE, pairwise.FEW), (4, 0)])
def test_absent_classes_have_gradient_zero(tile, few, monkeypatch):
  """Two zero rows are no pair, although the logarithm of their distance has no derivative."""
  monkeypatch.setattr(pairwise, "TILE", tile)
  monkeypatch.setattr(pairwise, "FEW", few)
  present = np.arange(11) % 3 != 1
  rows = jnp.float32(np.random.default_rng(0).normal(size=(11, 5)) * present[:, None])

  def loss(rows, variances):
    pairs = pairwise.vector_statistics.__wrapped__(rows, present, ALL, variances=variances)
    return sum(pairs[name].mean + pairs[name].variance for name in ALL)

  for gradient in jax.jit(jax.grad(loss, argnums=(0, 1)))(rows, jnp.ones(11)):
    assert np.isfinite(gradient).all() and not gradient[~present].any() and gradient[0].any()


def test_gradients_of_tiles_store_no_square(monkeypatch):
  monkeypatch.setattr(pairwise, "TILE", 16)

  def loss(rows):
    present = jnp.ones(256, bool)
    return pairwise.vector_statistics.__wrapped__(rows, present, ("log",))["log"].mean

  text = jax.jit(jax.grad(loss)).lower(jnp.ones((256, 3))).as_text()
  _, width = pairwise._tiles(256)  # an accelerator's are wider
  assert "256x256" not in text and f"{width}x{width}" in text
  assert "136x16x16" not in text  # nor all 136 tiles in a row


def test_a_ddof_that_leaves_nothing_to_divide_by_gives_no_negative_variance():
  world = worlds.clusters()
  moments, head = nc.ClassMoments.of(*world[:2], worlds.K), nc.Head(world.weight, world.bias)
  for ddof in (worlds.K, worlds.K + 5):
    values = nc.measure(moments, head, norm_ddof=ddof, pair_ddof=10 * ddof**2)
    for key in ("nc3/uniform_duality_var", "nc2/gnc2_var", "nc2/equinorm_means"):
      assert values[key] == np.inf, key
