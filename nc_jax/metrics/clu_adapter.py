"""Collapse moments as a clu.metrics.Metric, to sit in anybody's Collection; needs clu and flax."""

from typing import ClassVar

import clu.metrics
import clu.values
import flax.struct
import jax

from nc_jax.metrics.accumulation import accumulate
from nc_jax.metrics.catalogue import METRICS
from nc_jax.metrics.moments import ClassMoments, merge
from nc_jax.metrics.report import measure


@flax.struct.dataclass
class CollapseMetric(clu.metrics.Metric):
  """Class moments with clu's four verbs; made by `collapse_metric`.

  Attributes:
    moments: ClassMoments, with a leading device axis between gathering and `reduce`.
  """

  moments: ClassMoments

  shape: ClassVar[tuple[int, int]]
  scatter: ClassVar[bool]
  names: ClassVar[tuple[str, str]]
  key: ClassVar[str | None]
  options: ClassVar[dict]

  @classmethod
  def empty(cls) -> "CollapseMetric":
    return cls(moments=ClassMoments.empty(*cls.shape, scatter=cls.scatter))

  @classmethod
  def from_model_output(cls, *, mask=None, **outputs) -> "CollapseMetric":
    for name in cls.names:
      if name not in outputs:
        raise ValueError(f"no model output is called {name!r}; there are {', '.join(outputs)}")
    features, labels = (outputs[name] for name in cls.names)
    return cls(moments=accumulate(cls.empty().moments, features, labels, mask))

  def merge(self, other: "CollapseMetric") -> "CollapseMetric":
    return type(self)(moments=merge(self.moments, other.moments))

  def compute(self):
    values = measure(self.moments, **self.options)
    return values if self.key is None else values[self.key]

  def compute_value(self) -> clu.values.Value:
    if self.key is None:
      raise ValueError("compute_value() is for one number: collapse_metric(..., key='nc1/pinv')")
    return clu.values.Scalar(self.compute())


def collapse_metric(
  num_classes: int,
  dim: int,
  *,
  features: str = "features",
  labels: str = "labels",
  key: str | None = None,
  scatter: bool = True,
  **options,
) -> type[CollapseMetric]:
  """A metric class for a clu Collection.

      @flax.struct.dataclass
      class Metrics(clu.metrics.Collection):
        loss: clu.metrics.Average.from_output("loss")
        collapse: collapse_metric(num_classes=10, dim=512)

  Args:
    num_classes: K.
    dim: D.
    features: name of the model output [N, D].
    labels: name of the model output [N]. An output called mask, if there is one, is used.
    key: the one metric that compute() returns; None returns the dictionary of `measure`.
    scatter: as for `ClassMoments.empty`.
    **options: as for `measure`.

  Raises:
    ValueError, TypeError: a key that `measure` does not give with these options, or an option that
      it does not take.
  """
  moments = jax.eval_shape(lambda: ClassMoments.empty(num_classes, dim, scatter=scatter))
  given = jax.eval_shape(lambda m: measure(m, **options), moments)
  known = [name for name in METRICS if name in given]
  if key is not None and key not in known:
    raise ValueError(f"key must be one of {', '.join(known)}; got {key!r}")

  @flax.struct.dataclass
  class Configured(CollapseMetric):
    pass

  Configured.shape = (num_classes, dim)
  Configured.scatter = scatter
  Configured.names = (features, labels)
  Configured.key = key
  Configured.options = options
  return Configured
