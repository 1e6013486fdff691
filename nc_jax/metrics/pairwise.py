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
from nc_jax.metrics.inputs import automatic
from nc_jax.metrics.moments import ClassMoments
from nc_jax.metrics.products import HIGHEST
from nc_jax.metrics.sharding import varying

TILE = 1024  # classes whose pairs are one tile, of 4 MiB; of more, accelerators take twice as many
CPU_TILE = 512  # and a CPU half, so that the passes over a tile stay in a core's cache
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
  kernel: Callable,
  left,
  right,
  *,
  ordered: bool = False,
  least: tuple[str, ...] = (),
  mesh: Mesh | Columns | None = None,
) -> dict[str, Statistic | Array]:
  """Statistics of numbers x_ij that belong to pairs of rows, left_i and right_j.

  Tiles are merged by counts, means and centred squares (Chan, Golub and LeVeque 1983), so a
  small spread about a large mean survives. Once a tile's worth of pairs has been seen, the next
  is read in one pass, about their mean m instead of its own: what Σ (x − m)² loses to rounding
  is small beside n (mean − m)², which the merge adds to the squares anyway.

  Args:
    kernel: (left tile, right tile, pair [T, T] bool, same [T, T] bool, summed) ->
      summed({name: [T, T]}). What there is outside `pair` is ignored but must be finite, for the
      sake of its derivative; `same` marks i = j.
    left, right: pytrees of [K, ...] arrays; both carry a "present" [K] bool.
    ordered: all pairs, i = j included. Otherwise each pair i < j once, for symmetric kernels.
    least: names of which the result is instead [K], the least number that a class has with any
      other (ordered: as the left one); inf without pairs.
    mesh: devices to spread the tiles over; None computes all of them where it runs. `Columns` where
      [K, D] arrays lie split over them: the devices then send one another the tiles they need.
  """
  columns = mesh if isinstance(mesh, Columns) else None
  num_classes = left["present"].shape[0]
  tiles, width = _tiles(num_classes)
  left, right = (_pad(tree, tiles * width) for tree in (left, right))
  pairs = [(i, j) for i in range(tiles) for j in range(0 if ordered else i, tiles)]

  def take(tree, tile):
    def cut(x):
      if columns is not None and x.ndim == 2:
        return columns.tile(x, tile * width, width)
      return lax.dynamic_slice_in_dim(x, tile * width, width)

    return jax.tree.map(cut, tree)

  @jax.checkpoint  # or a gradient would store every tile, the [K, K] array after all
  def tile_parts(left, right, i, j, before):
    a, b = take(left, i), take(right, j)
    row = i * width + jnp.arange(width)[:, None]
    column = j * width + jnp.arange(width)
    pair = a["present"][:, None] & b["present"]
    partners = jnp.sum(b["present"])
    if not ordered:
      pair &= row < column
      partners -= jnp.where(i == j, jnp.cumsum(b["present"]), 0)
    count = jnp.sum(a["present"] * partners)

    def nearest(values):
      values = jnp.where(pair, values, jnp.inf)
      found = jnp.full(tiles * width, jnp.inf, values.dtype)
      found = lax.dynamic_update_slice(found, jnp.min(values, axis=1), (i * width,))
      if ordered:
        return found
      others = lax.dynamic_slice(found, (j * width,), (width,))
      others = jnp.minimum(others, jnp.min(values, axis=0))
      return lax.dynamic_update_slice(found, others, (j * width,))

    def parts(about):
      def summed(values):
        return {
          name: nearest(x) if name in least else _of_tile(x, pair, count, about.get(name))
          for name, x in values.items()
        }

      return kernel(a, b, pair, row == column, summed)

    if not before:
      return parts({})
    about = {name: lax.stop_gradient(part.mean) for name, part in before.items()}
    seen = next(iter(before.values())).count
    known = (seen >= width**2) & jnp.isfinite(sum(about.values()))
    return lax.cond(known, lambda: parts(about), lambda: parts({}))

  def run(left, right, pairs, weights):
    def weighed(parts, weight):
      return jax.tree.map(lambda x, no: jnp.where(weight, x, no), parts, _no_parts(parts))

    first = jax.eval_shape(tile_parts, left, right, *pairs[0], {})
    if pairs.shape[0] == 1:
      return weighed(tile_parts(left, right, *pairs[0], {}), weights[0])

    def step(state, chunk):
      (i, j), weight = chunk
      before = {name: part for name, part in state.items() if name not in least}
      new = weighed(tile_parts(left, right, i, j, before), weight)
      return {name: _merge(state[name], new[name]) for name in state}, None

    return lax.scan(step, varying(_no_parts(first), left, right), (pairs, weights))[0]

  if columns is None and (mesh is None or mesh.size == 1):
    result = run(left, right, jnp.asarray(pairs), jnp.ones(len(pairs), bool))
  else:
    result = _over_devices(run, left, right, pairs, mesh)
  return {name: _finish(value, num_classes) for name, value in result.items()}


def _tiles(num_classes: int) -> tuple[int, int]:
  """How many tiles a side has, and how many classes a tile's side."""
  if num_classes <= TILE:
    return 1, num_classes
  widest = min(TILE, CPU_TILE) if jax.default_backend() == "cpu" else 2 * TILE
  width = -(-num_classes // -(-num_classes // widest))
  if width > 32:
    width = -(-width // 32) * 32  # products of whole registers are faster
  return -(-num_classes // width), width


def _over_devices(run, left, right, pairs, mesh: Mesh | Columns):
  """The tiles dealt out like cards; each device sums its own, then all agree."""
  whole = wide = PartitionSpec()
  if isinstance(mesh, Columns):
    mesh, wide = mesh.mesh, mesh.wide
  mesh = automatic(mesh)
  axes = tuple(mesh.axis_names)
  rounds = -(-len(pairs) // mesh.size)
  dealt = np.zeros((rounds * mesh.size, 2), np.int32)
  dealt[: len(pairs)] = pairs
  weights = np.arange(rounds * mesh.size) < len(pairs)
  order = np.arange(rounds * mesh.size).reshape(rounds, mesh.size).T.reshape(-1)

  def local(left, right, pairs, weights):
    own = run(left, right, pairs, weights)

    def agree(part):
      if not isinstance(part, Statistic):
        return lax.pmin(part, axes)
      count = lax.psum(part.count, axes)
      mean = lax.psum(part.count * part.mean, axes) / jnp.maximum(count, 1)
      square = lax.psum(part.variance + part.count * (part.mean - mean) ** 2, axes)
      return Statistic(mean, square, count)

    return {name: agree(part) for name, part in own.items()}

  trees = [jax.tree.map(lambda x: wide if x.ndim == 2 else whole, tree) for tree in (left, right)]
  specs = (*trees, PartitionSpec(axes), PartitionSpec(axes))
  mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False)
  return mapped(left, right, jnp.asarray(dealt[order]), jnp.asarray(weights[order]))


def _of_tile(values: Array, pair: Array, count: Array, about: Array | None) -> Statistic:
  """Mean and sum of centred squares (kept under `variance` until the end) of one tile."""
  count = count.astype(values.dtype)
  share = 1 / jnp.maximum(count, 1)
  if about is None:
    mean = jnp.sum(jnp.where(pair, values, 0)) * share
    return Statistic(mean, jnp.sum(jnp.where(pair, values - mean, 0) ** 2), count)
  away = jnp.where(pair, values - about, 0)
  mean = jnp.sum(away) * share
  return Statistic(about + mean, jnp.maximum(jnp.sum(away**2) - count * mean**2, 0), count)


def _no_parts(parts: dict) -> dict:
  """What merging leaves unchanged."""
  return {
    name: Statistic(*(jnp.zeros(x.shape, x.dtype) for x in part))
    if isinstance(part, Statistic)
    else jnp.full(part.shape, jnp.inf, part.dtype)
    for name, part in parts.items()
  }


def _merge(a, b):
  if not isinstance(a, Statistic):
    return jnp.minimum(a, b)
  count = a.count + b.count
  share = b.count / jnp.maximum(count, 1)
  delta = b.mean - a.mean
  mean = jnp.where(jnp.isfinite(delta), a.mean + share * delta, a.mean + b.mean)
  square = a.variance + b.variance + jnp.where(b.count > 0, a.count * share * delta**2, 0)
  return Statistic(jnp.where(b.count > 0, mean, a.mean), square, count)


def _finish(part, num_classes: int):
  if not isinstance(part, Statistic):
    return part[:num_classes]
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
  positive = ~(square == 0)  # nan stays nan
  norms = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
  return rows / jnp.where(positive, norms, 1)[:, None], norms


def squared_distances(a: tuple[Array, ...], b: tuple[Array, ...]) -> Array:
  """[T, T] ‖a_i − b_j‖² by differences; a and b are given as terms, [T, D] each, of a sum."""

  def from_row(row):
    away = sum(_minus(x, jnp.broadcast_to(y, x.shape)) for x, y in zip(b, row, strict=True))
    return jnp.sum(away**2, axis=1)

  return jax.vmap(from_row)(a) if a[0].size * len(b[0]) <= FEW else lax.map(from_row, a)


@jax.custom_jvp
def _minus(x: Array, y: Array) -> Array:
  """x − y, which is 0 where they are equal.

  Compiled into one kernel with what made x and y, x·z − y·z can be an FMA's rounding error.
  """
  return jnp.where(x == y, 0, x - y)


_minus.defjvps(lambda tangent, out, x, y: tangent, lambda tangent, out, x, y: -tangent)


@jax.jit(static_argnames=("names", "riesz_s", "mesh"))
def vector_statistics(
  rows: Array,
  present: Array,
  names: tuple[str, ...],
  *,
  terms: tuple[Array, ...] | None = None,
  variances: Array | None = None,
  riesz_s: float = 1.0,
  mesh: Mesh | Columns | None = None,
) -> dict[str, Statistic | Array]:
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
      "nearest"  [K], min_j ‖v_i − v_j‖²; where asked alone, to the precision of the norms².
    terms: [K, D] each, whose sums differ from row to row as the rows do, but without the rounding
      of these: "cdnv" and "nearest" of vectors that are far closer to one another than to 0.
    variances: [K], for "cdnv".
    riesz_s: the exponent s.
    mesh: devices to spread the tiles over, as for `sweep`.
  """
  units, norms = unit_rows(jnp.where(present[:, None], rows, 0))
  classes = jnp.sum(present).astype(rows.dtype)
  tree = {"present": present, "units": ((units,), jnp.sum(units**2, axis=1)), "norms": norms}
  vectors = ("units", "rows") if {"cdnv", "nearest"} & set(names) else ("units",)
  if "rows" in vectors:
    tree["rows"] = (terms or (rows,), jnp.sum(rows**2, axis=1))
  if "cdnv" in names:
    tree["variances"] = variances
  cosine_at_collapse = -1 / jnp.where(classes > 1, classes - 1, jnp.nan)

  def kernel(a, b, pair, same, summed):
    del same
    gram = jnp.matmul(a["units"][0][0], b["units"][0][0].T, precision=HIGHEST)

    def by_differences():
      return [squared_distances(a[key][0], b[key][0]) for key in vectors]

    def by_gram():
      products = {"units": gram}
      if "rows" in vectors:
        products["rows"] = gram * a["norms"][:, None] * b["norms"]
      return [a[key][1][:, None] + b[key][1] - 2 * products[key] for key in vectors]

    if gram.size * rows.shape[1] <= FEW:
      squares = by_differences()
    elif names == ("nearest",):
      squares = by_gram()
    else:
      unsafe = pair & (gram > 1 - CLOSE / 2)
      squares = lax.cond(jnp.any(unsafe), by_differences, by_gram)
    squares = dict(zip(vectors, squares, strict=True))
    distance = squares["units"]
    has_length = (a["norms"] > 0)[:, None].astype(gram.dtype) + (b["norms"] > 0)
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
    if "rows" in vectors:
      between = jnp.where(pair, squares["rows"], 1)
    if "cdnv" in names:
      out["cdnv"] = (a["variances"][:, None] + b["variances"]) / (2 * between)
    if "nearest" in names:
      out["nearest"] = between
    return summed(out)

  return sweep(kernel, tree, tree, least=("nearest",), mesh=mesh)


def riesz(square: Array, s: float) -> Array:
  """sign(s) d^(−s) for squared distances d²; −log d for s = 0."""
  if s == 0:
    return -jnp.log(square) / 2
  # A CPU takes powers number by number, and roots many at a time.
  return 1 / jnp.sqrt(square) if s == 1 else np.sign(s) * square ** (-s / 2)


@jax.jit(static_argnames=("names", "global_mean", "riesz_s", "mesh"))
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
    terms=(moments.reference, moments.mean),
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

  def kernel(a, b, pair, same, summed):
    del pair
    target = scale * (same - 1 / classes)
    product = jnp.matmul(a["rows"], b["rows"].T, precision=HIGHEST)
    return summed({"square": (product - target) ** 2})

  trees = ({"present": present, "rows": rows} for rows in (left, right))
  square = sweep(kernel, *trees, ordered=True, mesh=mesh)["square"]
  return square.mean * square.count
