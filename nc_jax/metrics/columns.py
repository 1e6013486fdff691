"""Very wide problems: class moments whose D columns lie split over devices; see WIDE.md."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nc_jax.metrics import inputs, sharding
from nc_jax.metrics.products import HIGHEST

WHOLE_BYTES = 2**30  # moments that take more are split by `report`, if it is given devices
GATHER_BYTES = 2**29  # no array above this is gathered onto one device, to be decomposed


@dataclasses.dataclass(frozen=True)
class Columns:
  """The devices over which D columns lie split, n = mesh.size; hashable, a static of the moments.

  A device holds D/n columns of every [K, D] array and the D/n rows of the same numbers of the
  [D, D] scatter; [K] arrays are whole on each. Only chunks of examples and tiles of classes are
  ever whole in width.

  Attributes:
    mesh: all its axes are used.
  """

  mesh: Mesh

  @property
  def axes(self) -> tuple[str, ...]:
    return tuple(self.mesh.axis_names)

  @property
  def wide(self) -> PartitionSpec:
    """How [K, D] arrays lie, and examples that are split by columns."""
    return PartitionSpec(None, self.axes)

  @property
  def rows(self) -> PartitionSpec:
    """How [D] and [D, D] arrays lie, and examples that are spread by rows."""
    return PartitionSpec(self.axes)

  @classmethod
  def over(cls, mesh: Mesh, dim: int) -> "Columns":
    """Those of a mesh; ValueError where D columns do not divide over its devices."""
    if not isinstance(mesh, Mesh):
      raise TypeError(f"mesh must be a jax.sharding.Mesh; got {type(mesh).__name__}")
    if dim % mesh.size:
      fit = [n for n in range(1, mesh.size) if dim % n == 0]
      raise ValueError(
        f"dim must divide over the devices of the mesh, which hold its columns; got dim = {dim} "
        f"and {mesh.size} devices: take a mesh of {' or '.join(map(str, fit))}"
      )
    return cls(inputs.automatic(mesh))

  def shardings(self) -> tuple[NamedSharding, NamedSharding, NamedSharding]:
    """Of what is whole on every device, of [K, D] arrays, and of [D, D] arrays."""
    return tuple(NamedSharding(self.mesh, p) for p in (PartitionSpec(), self.wide, self.rows))

  def put(self, array, spec: PartitionSpec, dtype=None) -> Array:
    """`array` on the devices; from NumPy each is sent its own part alone."""
    array = array if dtype in (None, array.dtype) else array.astype(dtype)
    return jax.device_put(array, NamedSharding(self.mesh, spec))

  def examples(self, by_rows: bool) -> tuple[PartitionSpec, PartitionSpec, PartitionSpec]:
    """How features, labels and mask of a pass lie."""
    if by_rows:
      return (self.rows,) * 3
    return (self.wide, PartitionSpec(), PartitionSpec())

  def specs(self, moments):
    """How the leaves of class moments lie; a tree of the same structure."""
    whole = PartitionSpec()
    return dataclasses.replace(
      moments,
      count=whole,
      reference=self.wide,
      mean=self.wide,
      spread=whole,
      scatter=None if moments.scatter is None else self.rows,
      dropped=whole,
    )

  def keep(self, moments):
    """The same moments, in their places; inside jit."""
    return jax.tree.map(self.lay, moments, self.specs(moments))

  def map(self, function: Callable, in_specs, out_specs) -> Callable:
    """`function` on every device, of what that one holds."""
    return jax.shard_map(
      function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )

  # Inside `map`.

  def index(self) -> Array:
    return lax.axis_index(self.axes)

  def total(self, x: Array) -> Array:
    """The sum over devices, on each."""
    return lax.psum(x, self.axes)

  def least(self, x: Array) -> Array:
    return lax.pmin(x, self.axes)

  def most(self, x: Array) -> Array:
    return lax.pmax(x, self.axes)

  def whole(self, x: Array) -> Array:
    """[B, D] on every device, of the columns [B, D/n] that each holds."""
    return lax.all_gather(x, self.axes, axis=1, tiled=True)

  def product(self, z: Array) -> Array:
    """[D/n, D] this device's rows of zᵀz, of its columns z [B, D/n]."""
    return jnp.matmul(z.T, self.whole(z), precision=HIGHEST)

  def exchange(self, features: Array, *others: Array) -> list[Array]:
    """From this device's examples, features [B/n, D], to all of them in its columns, [B, D/n]."""
    features = lax.all_to_all(features, self.axes, 1, 0, tiled=True)
    return [features, *(lax.all_gather(x, self.axes, tiled=True) for x in others)]

  def scan(self, step, state, features, labels, mask, skip, by_rows: bool):
    """`sharding.scan_chunks` of examples that lie by columns or by rows; `step` sees columns."""
    if features.shape[0] == 0:
      return state
    rows, inner = self.rows_of_chunk(features, by_rows), step
    if by_rows:
      step = lambda state, chunk: inner(state, self.exchange(*chunk))
    return sharding.scan_chunks(step, state, features, labels, mask, skip, rows)

  def rows_of_chunk(self, features: Array, by_rows: bool) -> int:
    """Rows of `features` that a device reads at a time."""
    if by_rows:
      return -(-sharding.chunk_rows(features.shape[1]) // self.mesh.size)
    return sharding.chunk_rows(features.shape[1] * self.mesh.size)

  def tile(self, rows: Array, start: Array, width: int) -> Array:
    """[T, D] the T = width rows from `start` on, whole; every device may ask for others.

    Each sends all the others its columns of what they ask for, and no device sees more than it
    asked for.
    """
    starts = lax.all_gather(start, self.axes)
    asked = rows[starts[:, None] + jnp.arange(width)]
    return lax.all_to_all(asked, self.axes, 0, 2, tiled=True)[0]

  # Of arrays that lie split.

  def gram(self, rows: Array) -> Array:
    """[D, D] rowsᵀ rows, split by rows, of rows [K, D]."""

    def local(rows):
      def step(total, chunk):
        tile, _, new = chunk
        return total + self.product(jnp.where(new[:, None], tile, 0)), None

      dim = rows.shape[1] * self.mesh.size
      zero = jnp.zeros((rows.shape[1], dim), rows.dtype)
      size = sharding.chunk_rows(dim)
      return sharding.scan_chunks(step, zero, rows, rows[:, 0], None, rows=size)

    return self.map(local, (self.wide,), self.rows)(rows)

  def triangle(self, rows: Array) -> Array:
    """[min(K, D), D] whole on every device, T with TᵀT = rowsᵀ rows: a QR of K rows, D at a time.

    The Gram matrix would be split, but its condition is squared; see `between.spectrum`.
    """
    num_rows, dim = rows.shape
    if num_rows <= dim:
      return self.gather(rows)

    def local(rows):
      def step(triangle, chunk):
        tile, _, new = chunk
        tile = self.whole(jnp.where(new[:, None], tile, 0))
        return jnp.linalg.qr(jnp.concatenate([triangle, tile]), mode="r"), None

      zero = jnp.zeros((dim, dim), rows.dtype)
      return sharding.scan_chunks(step, zero, rows, rows[:, 0], None, rows=dim)

    return self.map(local, (self.wide,), PartitionSpec())(rows)

  def lay(self, x: Array, spec: PartitionSpec) -> Array:
    """The same array, spread as `spec` says; inside jit."""
    return lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

  def gather(self, x: Array) -> Array:
    """The same array, whole on every device; inside jit."""
    return self.lay(x, PartitionSpec())

  def by_classes(self, rows: Array) -> Array:
    """[K', D] whole rows, split by classes; zeros fill up to an equal number for each device."""
    missing = -rows.shape[0] % self.mesh.size
    rows = jnp.pad(rows, [(0, missing), (0, 0)])

    def local(rows):
      return lax.all_to_all(rows, self.axes, 0, 1, tiled=True)

    return self.map(local, (self.wide,), self.rows)(rows)

  # Arguments of a pass.

  def arrange(self, features, labels, mask) -> tuple[tuple, bool]:
    """The examples where a pass reads them, and whether each device brings its own rows.

    Features that lie spread by rows over just these devices stay there; other JAX arrays are split
    by columns. NumPy arrays are left to `place`, slice by slice.
    """
    arrays = features, labels, mask
    if isinstance(features, (np.ndarray, jax.core.Tracer)):
      return arrays, False
    split = sharding.split_of(features)
    if split is not None and split == (self.mesh, self.axes):
      return (features, *self._put_all((labels, mask), self.rows)), True
    return self.place(arrays), False

  def place(self, arrays: tuple) -> tuple:
    """Features [N, D] by columns, and whole what belongs to them, [N] each or None."""
    features, *others = arrays
    return (self.put(features, self.wide), *self._put_all(others, PartitionSpec()))

  def _put_all(self, arrays, spec: PartitionSpec) -> list:
    return [x if x is None else self.put(x, spec) for x in arrays]


def mesh_beyond(mesh: Mesh | None, num_classes: int, features, scatter: bool) -> Mesh | None:
  """The mesh, if it has several devices and whole moments would take more than WHOLE_BYTES."""
  dim = features.shape[-1] if features.ndim else 0
  size = (2 * num_classes * dim + dim * dim * scatter) * inputs.float_dtype().itemsize
  return mesh if mesh is not None and mesh.size > 1 and size > WHOLE_BYTES else None


def decomposable(num_classes: int, dim: int, itemsize: int) -> bool:
  """Whether [min(K, D), D] is small enough to be whole on one device."""
  return min(num_classes, dim) * dim * itemsize <= GATHER_BYTES
