"""Statistics over pairs of classes, tile by tile: never a [K, K] array, never the diagonal."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

from nc_jax.metrics.centring import Centred, centre
from nc_jax.metrics.columns import Columns
from nc_jax.metrics.moments import ClassMoments
from nc_jax.metrics.products import HIGHEST

TILE = 1024  # classes per side: 4 MiB of float32 a tile
FEW = 2**18  # classes² times dimensions: below, differences cost nothing
CLOSE = 0.02  # ‖u_i − u_j‖² below which a Gram matrix no longer gives it to 1e-5


class Statistic(NamedTuple):
  """Mean and variance (ddof 0) of one number over the pairs; float [] each, nan without pairs.

  Attributes:
    mean: [].
    variance: [].
    count: [] number of pairs.
  """

  mean: Array
  variance: Array
  count: Array


def sweep(
  kernel: Callable, left, right, *, ordered: bool = False, mesh: Mesh | Columns | None = None
) -> dict[str, Statistic]:
  """Statistics of kernel(left_i, right_j) over pairs of rows.

  Tiles are merged by counts, means and centred squares (Chan, Golub and LeVeque 1983), so a
  small spread about a large mean survives.

  Args:
    kernel: (left tile, right tile, pair [T, T] bool, same [T, T] bool) -> {name: [T, T]}. What
      it gives outside `pair` is ignored but must be finite; `same` marks i = j.
    left, right: pytrees of [K, ...] arrays; both carry a "present" [K] bool.
    ordered: all pairs, i = j included. Otherwise each pair i < j once, for symmetric kernels.
    mesh: devices to spread the tiles over; None computes all of them where it runs. `Columns` where
      [K, D] arrays lie split over them: the devices then send one another the tiles they need.
  """
  columns = mesh if isinstance(mesh, Columns) else None
  num_classes = left["present"].shape[0]
  tiles = -(-num_classes // TILE)
  width = -(-num_classes // tiles)
  left, right = (_pad(tree, tiles * width) for tree in (left, right))
  pairs = [(i, j) for i in range(tiles) for j in range(0 if ordered else i, tiles)]

  def take(tree, tile):
    def cut(x):
      if columns is not None and x.ndim == 2:
        return columns.tile(x, tile * width, width)
      return lax.dynamic_slice_in_dim(x, tile * width, width)

    return jax.tree.map(cut, tree)

  @jax.checkpoint  # or a gradient would store every tile, the [K, K] array after all
  def tile_statistics(left, right, i, j):
    a, b = take(left, i), take(right, j)
    row = i * width + jnp.arange(width)[:, None]
    column = j * width + jnp.arange(width)
    pair = a["present"][:, None] & b["present"]
    if not ordered:
      pair &= row < column
    values = kernel(a, b, pair, row == column)
    return {name: _of_tile(value, pair) for name, value in values.items()}

  def run(left, right, pairs, weights):
    first = tile_statistics(left, right, *pairs[0])
    first = jax.tree.map(lambda x: jnp.where(weights[0], x, 0), first)
    if pairs.shape[0] == 1:
      return first

    def step(state, chunk):
      (i, j), weight = chunk
      new = tile_statistics(left, right, i, j)
      new = jax.tree.map(lambda x: jnp.where(weight, x, 0), new)
      return {name: _merge(state[name], new[name]) for name in state}, None

    return lax.scan(step, first, (pairs[1:], weights[1:]))[0]

  if columns is None and (mesh is None or mesh.size == 1):
    result = run(left, right, jnp.asarray(pairs), jnp.ones(len(pairs), bool))
  else:
    result = _over_devices(run, left, right, pairs, mesh)
  return {name: _finish(value) for name, value in result.items()}


def _over_devices(run, left, right, pairs, mesh: Mesh | Columns):
  """The tiles dealt out like cards; each device sums its own, then all agree."""
  whole = wide = PartitionSpec()
  if isinstance(mesh, Columns):
    mesh, wide = mesh.mesh, mesh.wide
  axes = tuple(mesh.axis_names)
  rounds = -(-len(pairs) // mesh.size)
  dealt = np.zeros((rounds * mesh.size, 2), np.int32)
  dealt[: len(pairs)] = pairs
  weights = np.arange(rounds * mesh.size) < len(pairs)
  order = np.arange(rounds * mesh.size).reshape(rounds, mesh.size).T.reshape(-1)

  def local(left, right, pairs, weights):
    own = run(left, right, pairs, weights)

    def agree(part: Statistic) -> Statistic:
      count = lax.psum(part.count, axes)
      mean = lax.psum(part.count * part.mean, axes) / jnp.maximum(count, 1)
      square = lax.psum(part.variance + part.count * (part.mean - mean) ** 2, axes)
      return Statistic(mean, square, count)

    return {name: agree(part) for name, part in own.items()}

  trees = [jax.tree.map(lambda x: wide if x.ndim == 2 else whole, tree) for tree in (left, right)]
  specs = (*trees, PartitionSpec(axes), PartitionSpec(axes))
  mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False)
  return mapped(left, right, jnp.asarray(dealt[order]), jnp.asarray(weights[order]))


def _of_tile(values: Array, pair: Array) -> Statistic:
  """Mean and sum of centred squares (kept under `variance` until the end) of one tile."""
  count = jnp.sum(pair, dtype=values.dtype)
  mean = jnp.sum(jnp.where(pair, values, 0)) / jnp.maximum(count, 1)
  square = jnp.sum(jnp.where(pair, values - mean, 0) ** 2)
  return Statistic(mean, square, count)


def _merge(a: Statistic, b: Statistic) -> Statistic:
  count = a.count + b.count
  share = b.count / jnp.maximum(count, 1)
  delta = b.mean - a.mean
  mean = jnp.where(b.count > 0, a.mean + share * delta, a.mean)
  square = a.variance + b.variance + jnp.where(b.count > 0, a.count * share * delta**2, 0)
  return Statistic(mean, square, count)


def _finish(part: Statistic) -> Statistic:
  some = part.count > 0
  return Statistic(
    jnp.where(some, part.mean, jnp.nan),
    jnp.where(some, part.variance / jnp.maximum(part.count, 1), jnp.nan),
    part.count,
  )


def _pad(tree, size: int):
  def pad(x):
    return jnp.pad(x, [(0, size - x.shape[0])] + [(0, 0)] * (x.ndim - 1))

  return jax.tree.map(pad, tree) if size != tree["present"].shape[0] else tree


def unit_rows(rows: Array) -> tuple[Array, Array]:
  """Rows divided by their norms, and the norms; a zero row stays zero, with gradient zero."""
  square = jnp.sum(rows**2, axis=1)
  positive = square > 0
  norms = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
  return rows / jnp.where(positive, norms, 1)[:, None], norms


def squared_distances(a: Array, b: Array, gram: Array, unsafe: Array) -> Array:
  """[T, T] ‖a_i − b_j‖², from the Gram matrix, or by differences where any pair is `unsafe`."""

  def from_row(row):
    # Compiled into one kernel with what made the rows, x·y − x·y can be an FMA's rounding error.
    return jnp.where(jnp.all(b == row, axis=1), 0, jnp.sum((b - row) ** 2, axis=1))

  if a.size * b.shape[0] <= FEW:
    return jax.vmap(from_row)(a)

  def by_differences():
    return lax.map(from_row, a)

  def by_gram():
    return jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1) - 2 * gram

  return lax.cond(jnp.any(unsafe), by_differences, by_gram)


@jax.jit(static_argnames=("names", "riesz_s", "mesh"))
def vector_statistics(
  rows: Array,
  present: Array,
  names: tuple[str, ...],
  *,
  variances: Array | None = None,
  riesz_s: float = 1.0,
  mesh: Mesh | Columns | None = None,
) -> dict[str, Statistic]:
  """Statistics of pairs of vectors, all from one product per tile.

  Args:
    rows: [K, D]; those not present are ignored.
    present: [K] bool.
    names: any of
      "one_minus_cosine"  1 − u_i·u_j with u = v / ‖v‖; 1 if one of them is zero.
      "equiangular"  |u_i·u_j + 1/(C − 1)|
      "log"  −log ‖u_i − u_j‖
      "riesz"  sign(s) ‖u_i − u_j‖^(−s); the log kernel for s = 0.
      "cdnv"  (v_i + v_j) / (2 ‖v_i − v_j‖²), with the variances.
    variances: [K], for "cdnv".
    riesz_s: the exponent s.
    mesh: devices to spread the tiles over, as for `sweep`.
  """
  units, norms = unit_rows(jnp.where(present[:, None], rows, 0))
  classes = jnp.sum(present).astype(rows.dtype)
  tree = {"present": present, "units": units, "norms": norms}
  if "cdnv" in names:
    tree |= {"rows": rows, "variances": variances}
  cosine_at_collapse = -1 / jnp.where(classes > 1, classes - 1, jnp.nan)

  def kernel(a, b, pair, same):
    del same
    gram = jnp.matmul(a["units"], b["units"].T, precision=HIGHEST)
    has_length = (a["norms"] > 0)[:, None].astype(gram.dtype) + (b["norms"] > 0)
    unsafe = pair & (has_length - 2 * gram < CLOSE)
    distance = squared_distances(a["units"], b["units"], gram, unsafe)
    apart = 1 - has_length / 2 + distance / 2  # 1 − cosine, exact for nearly parallel vectors
    distance = jnp.where(pair, distance, 1)
    out = {}
    if "one_minus_cosine" in names:
      out["one_minus_cosine"] = apart
    if "equiangular" in names:
      out["equiangular"] = jnp.abs((1 - cosine_at_collapse) - apart)
    if "log" in names:
      out["log"] = -jnp.log(distance) / 2
    if "riesz" in names:
      out["riesz"] = riesz(distance, riesz_s)
    if "cdnv" in names:
      products = gram * a["norms"][:, None] * b["norms"]
      between = squared_distances(a["rows"], b["rows"], products, unsafe)
      between = jnp.where(pair, between, 1)
      out["cdnv"] = (a["variances"][:, None] + b["variances"]) / (2 * between)
    return out

  return sweep(kernel, tree, tree, mesh=mesh)


def riesz(square: Array, s: float) -> Array:
  """sign(s) d^(−s) for squared distances d²; −log d for s = 0."""
  if s == 0:
    return -jnp.log(square) / 2
  return np.sign(s) * square ** (-s / 2)


def mean_statistics(
  moments: ClassMoments,
  names: tuple[str, ...],
  *,
  global_mean: str = "classes",
  riesz_s: float = 1.0,
  mesh: Mesh | None = None,
) -> dict[str, Statistic]:
  """`vector_statistics` of the centred class means."""
  centred: Centred = centre(moments, global_mean)
  variances = moments.spread / jnp.maximum(moments.count, 1)
  return vector_statistics(
    centred.means,
    centred.present,
    names,
    variances=variances,
    riesz_s=riesz_s,
    mesh=moments.columns or mesh,
  )


def residual(
  left: Array, right: Array, present: Array, along: Array, *, mesh: Mesh | Columns | None = None
) -> Array:
  """[] ‖L Rᵀ − a E‖_F², E = (I − 11ᵀ/C)/√(C − 1), over the present rows, element by element.

  Args:
    left, right: [K, D].
    present: [K] bool.
    along: [] the coefficient a.
    mesh: devices to spread the tiles over, as for `sweep`.
  """
  classes = jnp.sum(present).astype(left.dtype)
  scale = along / jnp.sqrt(classes - 1)

  def kernel(a, b, pair, same):
    del pair
    target = scale * (same - 1 / classes)
    product = jnp.matmul(a["rows"], b["rows"].T, precision=HIGHEST)
    return {"square": (product - target) ** 2}

  trees = ({"present": present, "rows": rows} for rows in (left, right))
  square = sweep(kernel, *trees, ordered=True, mesh=mesh)["square"]
  return square.mean * square.count
