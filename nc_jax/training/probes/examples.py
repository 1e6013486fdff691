"""The arguments of a probe, checked in Python and placed before anything is traced."""

import jax.numpy as jnp
import numpy as np

from nc_jax.metrics import inputs, sharding
from nc_jax.training.probes.devices import Split, place


def examples(
  features, labels, mask, name: str, num_classes: int = 1, split: Split | None = None
) -> tuple:
  """features [N, D] float32, labels [N] int32, mask [N] bool, and the split of the examples.

  Args:
    features: [N, D] numbers.
    labels: [N] integers in [0, num_classes); None where there are none.
    mask: [N] bool, False for padding; None for no padding.
    name: what the features are called, for errors.
    num_classes: K.
    split: where the training examples lie, if these are others.

  Raises:
    ValueError, TypeError: as `inputs.check_examples`; ValueError too if the rows do not divide
      over the devices of `split`.
  """
  features = inputs.as_real(features, name)
  if features.ndim != 2:
    raise ValueError(f"{name} must have shape [N, D]; got {list(features.shape)}")
  labels = np.zeros(len(features), np.int32) if labels is None else labels
  mask = np.ones(len(features), bool) if mask is None else mask
  features, labels, mask = inputs.check_examples(
    features, labels, mask, num_classes, features.shape[1]
  )
  split = split or sharding.split_of(features)
  features, labels, mask = (place(x, split, name) for x in (features, labels, mask))
  return jnp.asarray(features, inputs.float_dtype()), labels, mask, split
