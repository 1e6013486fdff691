"""Probes: what a simple classifier can read from frozen features.

standard     features to mean 0 and standard deviation 1, as every probe sees them
linear       a linear probe; ridge regression
logistic     multinomial logistic regression
neighbours   the majority among the nearest training examples
front        all of them on one layer, in one program; the ceiling at collapse
examples     their arguments, checked
devices      each device its share of the examples
"""

from nc_jax.training.probes.front import KINDS, ceiling, probe
from nc_jax.training.probes.linear import Linear, ridge
from nc_jax.training.probes.multinomial import logistic
from nc_jax.training.probes.neighbours import knn
from nc_jax.training.probes.standard import Standard, standardise

__all__ = [
  "KINDS",
  "Linear",
  "Standard",
  "ceiling",
  "knn",
  "logistic",
  "probe",
  "ridge",
  "standardise",
]
