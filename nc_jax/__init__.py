"""nc_jax: a laboratory for neural collapse; the metric library needs jax and numpy alone."""

from nc_jax.metrics import (
  METRICS,
  ClassMoments,
  Decisions,
  Head,
  accumulate,
  all_reduce,
  collapse_about,
  decide,
  measure,
  merge,
  nearest_class,
  report,
  test_collapse,
)

__all__ = [
  "METRICS",
  "ClassMoments",
  "Decisions",
  "Head",
  "accumulate",
  "all_reduce",
  "collapse_about",
  "decide",
  "measure",
  "merge",
  "nearest_class",
  "report",
  "test_collapse",
]
