"""The front door: arrays from any framework, checked in Python before anything is traced."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding


def float_dtype() -> np.dtype:
  """The dtype everything is computed in: float32, or float64 under jax_enable_x64."""
  return jax.dtypes.canonicalize_dtype(float)


def is_traced(*trees) -> bool:
  """True inside jit, grad, vmap or scan, where values cannot be looked at."""
  return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def as_array(x, name: str):
  """`x` as a NumPy or JAX array, without a copy where its framework allows.

  Torch tensors come through NumPy's protocol, or through DLPack where NumPy cannot hold them
  (bfloat16, or memory on an accelerator); a gradient tape they carry is left behind. JAX arrays on
  a mesh of explicit axes are taken as they lie, on one of automatic axes.
  """
  if isinstance(x, np.ma.MaskedArray):
    raise TypeError(f"{name} must be a plain array; got a masked one, whose mask would be lost")
  if isinstance(x, np.ndarray):
    return x
  if isinstance(x, jax.Array):
    return _on_automatic_axes(x, name)
  if hasattr(x, "detach"):
    x = x.detach()
  try:
    return np.asarray(x)
  except (TypeError, ValueError, RuntimeError, BufferError) as error:
    if not hasattr(x, "__dlpack__"):
      raise TypeError(f"{name} must be an array; got {type(x).__name__}: {error}") from error
  try:
    return jnp.from_dlpack(x.contiguous() if hasattr(x, "contiguous") else x)
  except Exception as error:  # whatever the exporting framework raises
    raise TypeError(
      f"{name} of type {type(x).__name__} can be read neither by NumPy nor through DLPack "
      f"({error}); move it to the CPU, as a dense array, first"
    ) from error


def on_device(x, dtype) -> jax.Array:
  """jnp.asarray(x, dtype), which takes its time also where there is nothing to do."""
  return x if isinstance(x, jax.Array) and x.dtype == dtype else jnp.asarray(x, dtype)


def finished(result, *arguments):
  """`result`, once nothing reads those arguments any more that are not arrays of JAX.

  JAX computes behind a call's back, and may read a NumPy array or a torch tensor where it lies. Its
  owner may write the next batch there as soon as the call returns.
  """
  borrowed = [x for x in jax.tree.leaves(arguments) if not isinstance(x, jax.Array)]
  if borrowed and not is_traced(result):
    jax.block_until_ready(result)
  return result


def as_features(x, name: str, dim: int | None = None):
  """`x` as an array of real numbers, [N, D]; ValueError for another shape."""
  x = as_real(x, name)
  if x.ndim != 2 or dim not in (None, x.shape[1]):
    expected = "[N, D]" if dim is None else f"[N, D] = [N, {dim}]"
    raise ValueError(f"{name} must have shape {expected}; got {list(x.shape)}")
  return x


def automatic(mesh: Mesh) -> Mesh:
  """The same devices along axes that leave the choice to XLA; jax.make_mesh makes explicit ones."""
  return Mesh(mesh.devices, mesh.axis_names)


def as_real(x, name: str):
  """`x` as an array of real numbers; TypeError for anything else.

  The dtype is unchanged where JAX knows it. It knows neither other byte orders nor long double, and
  would cut integers of 64 bits down to 32.
  """
  x = as_array(x, name)
  if not (np.issubdtype(x.dtype, np.floating) or jnp.issubdtype(x.dtype, jnp.floating)):
    if not _is_integer(x.dtype):
      raise TypeError(f"{name} must hold real numbers; got dtype {x.dtype}")
  if isinstance(x, np.ndarray):
    wide = x.dtype.itemsize > 8 or (x.dtype.kind in "iu" and x.dtype.itemsize == 8)
    if wide or not x.dtype.isnative:
      return x.astype(float_dtype())
  return x


def check_examples(
  features, labels, mask, num_classes: int, dim: int | None = None, prefix: str = ""
):
  """The arguments of one batch as arrays; a bad shape, dtype or value raises here.

  Args:
    features: [N, D] real numbers of any dtype; the kernels convert them chunk by chunk.
    labels: [N] integers in [0, num_classes).
    mask: [N] bool, or numbers that are 0 or 1; None counts every example.
    num_classes: K.
    dim: D; None takes that of the features.
    prefix: of the names of the arguments, in errors.

  Returns:
    features [N, D], labels [N] int32, mask [N] bool or None.

  Raises:
    TypeError: labels are not integers, or features or mask not numbers.
    ValueError: shapes disagree; outside jit also a label of a counted example outside [0, K)
      or a mask value other than 0 and 1. Values inside jit cannot be seen: such examples are
      left out and counted in `dropped`.
  """
  features = as_features(features, f"{prefix}features", dim)
  labels = as_array(labels, f"{prefix}labels")
  expected = f"[N] = [{features.shape[0]}] to match {prefix}features {list(features.shape)}"
  if labels.shape != features.shape[:1]:
    raise ValueError(f"{prefix}labels must have shape {expected}; got {list(labels.shape)}")
  if not _is_integer(labels.dtype):
    raise TypeError(f"{prefix}labels must be integers; got dtype {labels.dtype}")
  if mask is not None:
    mask = as_array(mask, f"{prefix}mask")
    if mask.shape != features.shape[:1]:
      raise ValueError(f"{prefix}mask must have shape {expected}; got {list(mask.shape)}")
    if mask.dtype != bool:
      mask = _as_mask(as_real(mask, f"{prefix}mask"), f"{prefix}mask")
  if not is_traced(labels, mask) and _is_local(labels) and _is_local(mask):
    values = np.asarray(labels), None if mask is None else np.asarray(mask)
    _check_range(*values, num_classes, f"{prefix}labels")
  return features, _as_int32(labels, num_classes), mask


def check_size(name: str, value):
  """ValueError unless `value` counts something."""
  if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
    raise ValueError(f"{name} must be a positive integer; got {value!r}")


def check_moments(moments, name: str = "moments"):
  """Raises unless `moments` holds one state, not a stack of states with a device axis."""
  if not hasattr(moments, "reference"):
    raise TypeError(f"{name} must be nc.ClassMoments; got {type(moments).__name__}")
  if moments.mean.ndim != 2:
    raise ValueError(
      f"{name}.mean must have shape [K, D]; got {list(moments.mean.shape)}: reduce or index the "
      "leading axis first"
    )


def _on_automatic_axes(x: jax.Array, name: str) -> jax.Array:
  if isinstance(x, jax.core.Tracer):
    if any(jax.typeof(x).sharding.spec):
      raise ValueError(
        f"{name} inside jit lie on explicit axes of a mesh, {jax.typeof(x)}: let XLA choose, by "
        "jax.sharding.auto_axes or a mesh of jax.sharding.AxisType.Auto"
      )
    return x
  sharding = x.sharding
  if not isinstance(sharding, NamedSharding) or not sharding.mesh.explicit_axes:
    return x
  if jax.sharding.get_abstract_mesh().explicit_axes:
    raise ValueError(
      f"{name} lie on a mesh of explicit axes, which jax.set_mesh has made the context's too: "
      "measure outside of it, or set a mesh of jax.sharding.AxisType.Auto"
    )
  return jax.device_put(x, NamedSharding(automatic(sharding.mesh), sharding.spec))


def _is_integer(dtype) -> bool:
  """NumPy counts spans of time among the integers too."""
  return jnp.issubdtype(dtype, jnp.integer) and dtype.kind != "m"


def _as_mask(mask, name: str):
  if not is_traced(mask) and _is_local(mask):
    values = np.asarray(mask)
    wrong = (values != 0) & (values != 1)
    if wrong.any():
      raise ValueError(
        f"{name} must be bool, or 0 and 1; got {values[wrong][0]} at {int(np.argmax(wrong))}"
      )
  return mask != 0


def _check_range(labels: np.ndarray, mask, num_classes: int, name: str):
  """Raises for a counted label outside [0, K); a masked example may carry any label."""
  if labels.size == 0 or (labels.min() >= 0 and labels.max() < num_classes):
    return  # nearly always, without an array of N bools
  wrong = (labels < 0) | (labels >= num_classes)
  if mask is not None:
    wrong &= mask
  if wrong.any():
    raise ValueError(
      f"{name} must lie in [0, {num_classes}); got {labels[wrong][0]} at {int(np.argmax(wrong))} "
      f"({int(wrong.sum())} of {labels.size} labels)"
    )


def _as_int32(labels, num_classes: int):
  """Labels as int32; those that int32 may not hold become K, which is outside [0, K) too."""
  if labels.dtype == np.int32:
    return labels
  if jnp.iinfo(labels.dtype).max > np.iinfo(np.int32).max:
    labels = (np if isinstance(labels, np.ndarray) else jnp).where(
      (labels >= 0) & (labels < num_classes), labels, labels.dtype.type(num_classes)
    )
  return labels.astype(np.int32)


def _is_local(x) -> bool:
  """False for an array whose shards lie partly on other hosts."""
  return not isinstance(x, jax.Array) or x.is_fully_addressable
