"""What experiments read of the penultimate layer: keys, and columns of a table at the end."""

import numpy as np

from nc_jax.experiments.claims import measured
from nc_jax.experiments.results import Results
from nc_jax.experiments.statistics import ratio
from nc_jax.training.models import LOGITS, PENULTIMATE

V = "nc1/trace_ratio"  # tr(Σ_W)/tr(Σ_B); on test with the test set's own means
V_WEAK = "weak/second_moment"  # mean squared distance to the nearest train mean / tr(Σ_B) of train
ERROR = "error/classifier"


def curve(results: Results, cell: str, split: str, key: str) -> tuple[np.ndarray, np.ndarray]:
  return results.curve(cell, split, _layer(key), key)


def final(results: Results, cell: str, split: str, key: str) -> np.ndarray:
  return results.final(cell, split, _layer(key), key)


def column(results: Results, cell: str, name: str, split: str, key: str) -> dict[str, float]:
  """Mean and range over seeds of `key` at the end, as columns `name`."""
  return measured(name, final(results, cell, split, key))


def accuracy_column(results: Results, cell: str, split: str) -> dict[str, float]:
  """The same of 1 − error."""
  return measured(f"{split} accuracy", 1 - final(results, cell, split, ERROR))


def gap_column(results: Results, cell: str, layer: str = PENULTIMATE) -> dict[str, float]:
  """The same of V(test)/V(train) of a layer."""
  test, train = (results.final(cell, split, layer, V) for split in ("test", "train"))
  return measured("V(test)/V(train)", ratio(test, train))


def _layer(key: str) -> str:
  return LOGITS if key == ERROR else PENULTIMATE
