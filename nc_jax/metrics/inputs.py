"""The front door: arrays from any framework, checked in Python before anything is traced."""

import jax
import jax.numpy as jnp
import numpy as np


def float_dtype() -> np.dtype:
  """The dtype everything is computed in: float32, or float64 under jax_enable_x64."""
  return jnp.zeros((), float).dtype


def is_traced(*trees) -> bool:
  """True inside jit, grad, vmap or scan, where values cannot be looked at."""
  return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def as_array(x, name: str):
  """`x` as a NumPy or JAX array, without a copy where its framework allows.

  Torch tensors come through NumPy's protocol, or through DLPack where NumPy cannot hold them
  (bfloat16, or memory on an accelerator); a gradient tape they carry is left behind.
  """
  if isinstance(x, (np.ndarray, jax.Array)):
    return x
  if hasattr(x, "detach"):
    x = x.detach()
  try:
    return np.asarray(x)
  except (TypeError, ValueError, RuntimeError, BufferError) as error:
    if not hasattr(x, "__dlpack__"):
      raise TypeError(f"{name} must be an array; got {type(x).__name__}: {error}") from error
  try:
    return jnp.from_dlpack(x)
  except Exception as error:  # whatever the exporting framework raises
    raise TypeError(
      f"{name} of type {type(x).__name__} can be read neither by NumPy nor through DLPack "
      f"({error}); move it to the CPU first"
    ) from error


def finished(result, *arguments):
  """`result`, once nothing reads those arguments any more that are not arrays of JAX.

  JAX computes behind a call's back, and may read a NumPy array or a torch tensor where it lies. Its
  owner may write the next batch there as soon as the call returns.
  """
  borrowed = [x for x in jax.tree.leaves(arguments) if not isinstance(x, jax.Array)]
  if borrowed and not is_traced(result):
    jax.block_until_ready(result)
  return result


def as_real(x, name: str):
  """`x` as an array of real numbers, dtype unchanged; TypeError for anything else."""
  x = as_array(x, name)
  if not (jnp.issubdtype(x.dtype, jnp.floating) or _is_integer(x.dtype)):
    raise TypeError(f"{name} must hold real numbers; got dtype {x.dtype}")
  return x


def check_examples(features, labels, mask, num_classes: int, dim: int):
  """The arguments of one batch as arrays; a bad shape, dtype or value raises here.

  Args:
    features: [N, D] real numbers of any dtype; the kernels convert them chunk by chunk.
    labels: [N] integers in [0, num_classes).
    mask: [N] bool, or numbers that are 0 or 1; None counts every example.
    num_classes: K.
    dim: D.

  Returns:
    features [N, D], labels [N] int32, mask [N] bool or None.

  Raises:
    TypeError: labels are not integers, or features or mask not numbers.
    ValueError: shapes disagree; outside jit also a label of a counted example outside [0, K)
      or a mask value other than 0 and 1. Values inside jit cannot be seen: such examples are
      left out and counted in `dropped`.
  """
  features = as_real(features, "features")
  labels = as_array(labels, "labels")
  if features.ndim != 2 or features.shape[1] != dim:
    raise ValueError(f"features must have shape [N, D] = [N, {dim}]; got {list(features.shape)}")
  expected = f"[N] = [{features.shape[0]}] to match features {list(features.shape)}"
  if labels.shape != features.shape[:1]:
    raise ValueError(f"labels must have shape {expected}; got {list(labels.shape)}")
  if not _is_integer(labels.dtype):
    raise TypeError(f"labels must be integers; got dtype {labels.dtype}")
  if mask is not None:
    mask = as_array(mask, "mask")
    if mask.shape != features.shape[:1]:
      raise ValueError(f"mask must have shape {expected}; got {list(mask.shape)}")
    if mask.dtype != bool:
      mask = _as_mask(as_real(mask, "mask"))
  if not is_traced(labels, mask) and _is_local(labels) and _is_local(mask):
    _check_range(np.asarray(labels), None if mask is None else np.asarray(mask), num_classes)
  return features, _as_int32(labels, num_classes), mask


def check_moments(moments, name: str = "moments"):
  """Raises unless `moments` holds one state, not a stack of states with a device axis."""
  if moments.mean.ndim != 2:
    raise ValueError(
      f"{name}.mean must have shape [K, D]; got {list(moments.mean.shape)}: reduce or index the "
      "leading axis first"
    )


def _is_integer(dtype) -> bool:
  """NumPy counts spans of time among the integers too."""
  return jnp.issubdtype(dtype, jnp.integer) and dtype.kind != "m"


def _as_mask(mask):
  if not is_traced(mask) and _is_local(mask):
    values = np.asarray(mask)
    wrong = (values != 0) & (values != 1)
    if wrong.any():
      raise ValueError(
        f"mask must be bool, or 0 and 1; got {values[wrong][0]} at {int(np.argmax(wrong))}"
      )
  return mask != 0


def _check_range(labels: np.ndarray, mask, num_classes: int):
  """Raises for a counted label outside [0, K); a masked example may carry any label."""
  wrong = (labels < 0) | (labels >= num_classes)
  if mask is not None:
    wrong &= mask
  if wrong.any():
    raise ValueError(
      f"labels must lie in [0, {num_classes}); got {labels[wrong][0]} at {int(np.argmax(wrong))} "
      f"({int(wrong.sum())} of {labels.size} labels)"
    )


def _as_int32(labels, num_classes: int):
  """Labels as int32; what int32 cannot hold becomes -1, which is outside too."""
  if labels.dtype == np.int32:
    return labels
  if jnp.iinfo(labels.dtype).max > np.iinfo(np.int32).max:
    labels = (np if isinstance(labels, np.ndarray) else jnp).where(
      labels < num_classes, labels, labels.dtype.type(num_classes)
    )
  return labels.astype(np.int32)


def _is_local(x) -> bool:
  """False for an array whose shards lie partly on other hosts."""
  return not isinstance(x, jax.Array) or x.is_fully_addressable
