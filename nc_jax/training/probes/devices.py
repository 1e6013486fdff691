"""Where the examples lie: on one device, or each device its share of the rows."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Split = tuple[Mesh, tuple[str, ...]]
ROWS, WHOLE = "rows", "whole"  # an array spread over examples; one that every device has


def over_examples(local: Callable, split: Split | None, arguments, results) -> Callable:
  """local(*arrays, axes=()) for one device; the same on each device's own rows for several.

  Args:
    local: sees its device's rows, and adds up over `axes` by `total`.
    split: the mesh and the axes that the examples are spread over; None for one device.
    arguments: ROWS or WHOLE for each argument.
    results: a tree of ROWS and WHOLE, a prefix of what `local` returns.
  """
  if split is None:
    return functools.partial(local, axes=())
  mesh, axes = split
  specs = {ROWS: PartitionSpec(axes), WHOLE: PartitionSpec()}
  return jax.shard_map(
    functools.partial(local, axes=axes),
    mesh=mesh,
    in_specs=tuple(specs[name] for name in arguments),
    out_specs=jax.tree.map(specs.get, results),
    check_vma=False,
  )


def total(x, axes: tuple[str, ...]):
  """The sum over devices."""
  return lax.psum(x, axes) if axes else x


def largest(x, axes: tuple[str, ...]):
  """The elementwise maximum over devices."""
  return lax.pmax(x, axes) if axes else x


def gathered(x: Array, axes: tuple[str, ...], axis: int = 0) -> Array:
  """Every device's rows, in the order of the whole array."""
  return lax.all_gather(x, axes, axis=axis, tiled=True) if axes else x


def of_first(x: Array, axes: tuple[str, ...]) -> Array:
  """The first device's value: what all computed alike, alike to the last bit.

  A loop that ends earlier on one device than on another waits for it for ever.
  """
  return lax.psum(jnp.where(lax.axis_index(axes) == 0, x, 0), axes) if axes else x


def own_rows(x: Array, rows: int, axes: tuple[str, ...]) -> Array:
  """Of [N, ...] that every device has, the `rows` that are this device's."""
  return lax.dynamic_slice_in_dim(x, lax.axis_index(axes) * rows, rows) if axes else x


def place(x, split: Split | None, name: str):
  """[N, ...] spread over the devices as the training features are."""
  if split is None:
    return x
  mesh, axes = split
  devices = 1
  for axis in axes:
    devices *= mesh.shape[axis]
  if x.shape[0] % devices:
    raise ValueError(
      f"{name} must have a number of rows divisible by {devices}, over which the training "
      f"features are spread; got {x.shape[0]}: pad them and mask the padding"
    )
  return jax.device_put(x, NamedSharding(mesh, PartitionSpec(axes)))
