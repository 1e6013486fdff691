"""Class moments: what one pass over the features keeps, and how two passes become one."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh

from nc_jax.metrics import inputs
from nc_jax.metrics.columns import Columns, decomposable
from nc_jax.metrics.products import gram


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ClassMoments:
  """Counts, means and centred second moments of the features of K classes; a pytree.

  Means are kept relative to a fixed reference per class, a feature vector of that class:
  near collapse the distance of a feature to its class mean is many orders of magnitude below
  the mean itself, and differences from the reference are exact in floating point where raw
  sums would have rounded it away (Chan, Golub and LeVeque 1983 about a shift).

  Laws: `merge` is associative and commutative up to rounding, `empty` is its identity, a
  masked example is an absent one, and spread.sum() equals the trace of scatter.

  Attributes:
    count: [K] int32, examples per class, below 2³¹ each.
    reference: [K, D], the point each class is measured from; 0 for a class not yet seen.
    mean: [K, D], class mean minus reference.
    spread: [K], sum of squared distances to the own class mean.
    scatter: [D, D], sum of outer products about the own class mean, pooled over classes and
      never divided; None where the features are too wide for it.
    dropped: [] int32, examples left out inside jit because their label was outside [0, K).
    columns: the devices over which the columns of [K, D] arrays, and the rows of [D, D], lie
      split; None where all is whole. See WIDE.md.
  """

  count: Array
  reference: Array
  mean: Array
  spread: Array
  scatter: Array | None
  dropped: Array
  columns: Columns | None = dataclasses.field(default=None, metadata={"static": True})

  @classmethod
  def empty(
    cls, num_classes: int, dim: int, *, scatter: bool = True, mesh: Mesh | None = None
  ) -> "ClassMoments":
    """The moments of no example: the identity of `merge`.

    Args:
      num_classes: K.
      dim: D.
      scatter: keep the [D, D] scatter; without it `nc1/pinv` needs a second pass and
        `nc1/vci` and the ranks are not available.
      mesh: devices to split the columns over, for moments too large for one; D must divide. All
        that is made of these moments works in place, and no device ever holds them whole.
    """
    for name, value in (("num_classes", num_classes), ("dim", dim)):
      inputs.check_size(name, value)
    dtype = inputs.float_dtype()
    columns = None if mesh is None else Columns.over(mesh, dim)
    if columns is not None and scatter and not decomposable(dim, dim, dtype.itemsize):
      raise ValueError(
        f"a [D, D] scatter of dim = {dim} is too large to be decomposed on one device (see "
        "WIDE.md); pass scatter=False"
      )

    whole, wide, rows = (None,) * 3 if columns is None else columns.shardings()
    return cls(
      count=jnp.zeros(num_classes, jnp.int32, device=whole),
      reference=jnp.zeros((num_classes, dim), dtype, device=wide),
      mean=jnp.zeros((num_classes, dim), dtype, device=wide),
      spread=jnp.zeros(num_classes, dtype, device=whole),
      scatter=jnp.zeros((dim, dim), dtype, device=rows) if scatter else None,
      dropped=jnp.zeros((), jnp.int32, device=whole),
      columns=columns,
    )

  @classmethod
  def of(
    cls,
    features,
    labels,
    num_classes: int,
    *,
    mask=None,
    reference=None,
    scatter: bool = True,
    mesh: Mesh | None = None,
  ) -> "ClassMoments":
    """The moments of one batch.

    Args:
      features: [N, D] numbers from NumPy, JAX or torch.
      labels: [N] integers in [0, num_classes).
      num_classes: K.
      mask: [N] bool, True for the examples that count.
      reference: [K, D] points to measure from; None takes each class's first example.
      scatter: keep the [D, D] scatter.
      mesh: devices to split the columns over, as for `empty`.
    """
    from nc_jax.metrics import accumulation  # which builds on this file

    features = inputs.as_features(features, "features")
    moments = cls.empty(num_classes, features.shape[1], scatter=scatter, mesh=mesh)
    if reference is None:
      return accumulation.accumulate(moments, features, labels, mask)
    reference = inputs.as_real(reference, "reference")
    if reference.shape != moments.reference.shape:
      raise ValueError(
        f"reference must have shape [K, D] = {list(moments.reference.shape)}; "
        f"got {list(reference.shape)}"
      )
    reference = as_means(reference, moments.mean.dtype, moments.columns)
    moments = dataclasses.replace(moments, reference=reference)
    return accumulation.accumulate(moments, features, labels, mask, adopt=False)

  @property
  def num_classes(self) -> int:
    """K, empty classes included."""
    return self.mean.shape[-2]

  @property
  def dim(self) -> int:
    """D, the width of the features."""
    return self.mean.shape[-1]

  @property
  def examples(self) -> Array:
    """[] N, as a float: int32 ends at 2³¹, which all classes together may exceed."""
    return jnp.sum(self.count.astype(self.mean.dtype))

  @property
  def decomposable(self) -> bool:
    """Whether the spectrum of the class means is available: of all moments but split ones so wide
    that a [min(K, D), D] array would be too much for one device."""
    itemsize = self.mean.dtype.itemsize
    return self.columns is None or decomposable(self.num_classes, self.dim, itemsize)

  @property
  def class_means(self) -> Array:
    """[K, D] class means; 0 for an empty class."""
    return jnp.where(self.count[..., None] > 0, self.reference + self.mean, 0)

  def relabel(
    self, label_map: Sequence[int] | Array, num_classes: int | None = None
  ) -> "ClassMoments":
    """The moments under coarser labels, exactly, without the data.

        n' = Σ n_k     μ' = Σ n_k μ_k / n'     S' = S + Σ_k n_k (μ_k − μ')(μ_k − μ')ᵀ

    Args:
      label_map: [K] integers; class k becomes label_map[k]. A permutation renames classes.
      num_classes: number of new classes; None takes the largest label plus one.

    Raises:
      TypeError: label_map does not hold integers.
      ValueError: it has another length than K, or a label outside [0, num_classes).
    """
    label_map = np.asarray(label_map)
    if label_map.dtype.kind not in "iu":
      raise TypeError(f"label_map must hold integers; got dtype {label_map.dtype}")
    if label_map.shape != (self.num_classes,):
      raise ValueError(
        f"label_map must have shape [K] = [{self.num_classes}]; got {list(label_map.shape)}"
      )
    num_classes = int(label_map.max()) + 1 if num_classes is None else num_classes
    if label_map.min() < 0 or label_map.max() >= num_classes:
      raise ValueError(
        f"label_map must lie in [0, {num_classes}); got {label_map.min()} to {label_map.max()}"
      )
    return _relabel(self, jnp.array(label_map, jnp.int32), num_classes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Head:
  """A linear classifier, logits = W h + b; a pytree.

  Attributes:
    weight: [K, D], one row per class, as torch stores it; Flax kernels are [D, K].
    bias: [K], or None for no bias.
  """

  weight: Array
  bias: Array | None = None

  def check(self, num_classes: int, dim: int, columns: Columns | None = None) -> "Head":
    """The same head as JAX arrays of the library's dtype, shapes checked against K and D.

    The weight is split like the moments' means, if these are.
    """
    weight, bias = self.fitting(num_classes, dim)
    dtype = inputs.float_dtype()
    bias = None if bias is None else inputs.on_device(bias, dtype)
    return Head(as_means(weight, dtype, columns), bias)

  def fitting(self, num_classes: int, dim: int) -> tuple:
    """Weight and bias, or None, as arrays; ValueError if their shapes do not fit K and D."""
    weight = inputs.as_real(self.weight, "weight")
    if weight.shape != (num_classes, dim):
      hint = ""
      if weight.shape == (dim, num_classes):
        hint = ": it looks transposed, as Flax stores kernels; pass weight.T"
      raise ValueError(
        f"weight must have shape [K, D] = [{num_classes}, {dim}]; got {list(weight.shape)}{hint}"
      )
    bias = None if self.bias is None else inputs.as_real(self.bias, "bias")
    if bias is not None and bias.shape != (num_classes,):
      raise ValueError(f"bias must have shape [K] = [{num_classes}]; got {list(bias.shape)}")
    return weight, bias


def head_of(weight, bias, num_classes: int, dim: int) -> Head | None:
  """The head of a weight and a bias, or None; ValueError if they do not fit K and D."""
  if weight is None:
    if bias is not None:
      raise ValueError("bias needs a weight")
    return None
  return Head(*Head(weight, bias).fitting(num_classes, dim))


def fitting_head(head: Head | None, moments: ClassMoments) -> Head | None:
  """The head, checked against the moments and laid like their means; None if there is none."""
  if head is None:
    return None
  if not isinstance(head, Head):
    raise TypeError(f"head must be nc.Head(weight, bias); got {type(head).__name__}")
  return head.check(moments.num_classes, moments.dim, moments.columns)


def as_means(rows, dtype, columns: Columns | None) -> Array:
  """[K, D] rows as a JAX array that lies as the means of moments do."""
  if columns is None:
    return inputs.on_device(rows, dtype)
  return columns.put(rows, columns.wide, dtype)


def merge(a: ClassMoments, b: ClassMoments) -> ClassMoments:
  """The moments of two disjoint sets of examples together.

      n = n_a + n_b     δ = μ_b − μ_a     w = n_a n_b / n
      μ = μ_a + (n_b / n) δ     spread = Σ spread + w ‖δ‖²     scatter = Σ scatter + δᵀ diag(w) δ

  The result keeps the references of `a`, and those of `b` for classes that `a` has not seen.

  Raises:
    ValueError: numbers of classes or widths differ, only one side has a scatter, or the two are
      not split over the same devices.

  References: Chan, Golub and LeVeque 1983, The American Statistician 37(3).
  """
  inputs.check_moments(a, "a")
  inputs.check_moments(b, "b")
  if a.mean.shape != b.mean.shape:
    raise ValueError(
      f"moments of equal [K, D] can be merged; got {list(a.mean.shape)} and {list(b.mean.shape)}"
    )
  if (a.scatter is None) != (b.scatter is None):
    raise ValueError("moments with and without scatter cannot be merged")
  if a.columns != b.columns:
    raise ValueError("moments can be merged when both are whole, or split over the same mesh")
  return _merge(a, b)


@jax.jit
def _merge(a: ClassMoments, b: ClassMoments) -> ClassMoments:
  dtype = a.mean.dtype
  count = a.count + b.count
  safe = jnp.maximum(count, 1).astype(dtype)
  share = (b.count / safe)[:, None]
  weight = a.count.astype(dtype) * b.count / safe
  both = ((a.count > 0) & (b.count > 0))[:, None]
  delta = jnp.where(both, (b.reference - a.reference) + (b.mean - a.mean), 0)
  seen = (a.count > 0)[:, None]
  scatter = a.scatter
  if scatter is not None:
    scatter = scatter + b.scatter + _gram(jnp.sqrt(weight)[:, None] * delta, a.columns)
  merged = ClassMoments(
    count=count,
    reference=jnp.where(seen, a.reference, b.reference),
    mean=jnp.where(seen, a.mean + share * delta, b.mean),
    spread=a.spread + b.spread + weight * jnp.sum(delta**2, axis=1),
    scatter=scatter,
    dropped=a.dropped + b.dropped,
    columns=a.columns,
  )
  return _keep(merged)


def all_reduce(moments: ClassMoments, axis_name: str | tuple[str, ...]) -> ClassMoments:
  """The merge over every device of a mapped axis, the same on each; inside pmap or shard_map.

  The devices may have met different references, so all agree on the elementwise largest first;
  what follows is the closed form of `merge` for many parts, means before scatter:

      d = (r − r*) + mean     mean* = Σ n d / Σ n     S* = Σ [S + n (d − mean*)(d − mean*)ᵀ]

  Args:
    moments: this device's moments.
    axis_name: the mapped axis, or several.
  """
  if moments.columns is not None:
    raise ValueError("all_reduce merges moments that are whole on every device; these are split")
  dtype = moments.mean.dtype
  n = moments.count.astype(dtype)[:, None]
  # The largest is exact where an average would round, and lies among the features of the class.
  reference = lax.stop_gradient(jnp.where(n > 0, moments.reference, -jnp.inf))
  reference = lax.pmax(reference, axis_name)
  count = lax.psum(moments.count, axis_name)
  reference = jnp.where(count[:, None] > 0, reference, 0)
  safe = jnp.maximum(count, 1).astype(dtype)[:, None]
  about = jnp.where(n > 0, (moments.reference - reference) + moments.mean, 0)
  mean = lax.psum(n * about, axis_name) / safe
  away = jnp.where(n > 0, about - mean, 0)
  spread = moments.spread + n[:, 0] * jnp.sum(away**2, axis=1)
  scatter = moments.scatter
  if scatter is not None:
    scatter = scatter + gram(jnp.sqrt(n) * away)
  spread, scatter, dropped = lax.psum((spread, scatter, moments.dropped), axis_name)
  return ClassMoments(count, reference, mean, spread, scatter, dropped)


@jax.jit(static_argnums=2)
def _relabel(moments: ClassMoments, label_map: Array, num_classes: int) -> ClassMoments:
  def fold(x):
    return jax.ops.segment_sum(x, label_map, num_classes)

  dtype = moments.mean.dtype
  n = moments.count.astype(dtype)[:, None]
  count = fold(moments.count)
  safe = jnp.maximum(count, 1).astype(dtype)[:, None]
  # A merged class is measured from the reference of its first member: no new rounding.
  index = jnp.where(moments.count > 0, jnp.arange(moments.num_classes), moments.num_classes)
  first = jax.ops.segment_min(index, label_map, num_classes)
  reference = moments.reference.at[first].get(mode="fill", fill_value=0)
  about = jnp.where(n > 0, (moments.reference - reference[label_map]) + moments.mean, 0)
  mean = fold(n * about) / safe
  away = jnp.where(n > 0, about - mean[label_map], 0)
  scatter = moments.scatter
  if scatter is not None:
    scatter = scatter + _gram(jnp.sqrt(n) * away, moments.columns)
  spread = fold(moments.spread + n[:, 0] * jnp.sum(away**2, axis=1))
  columns = moments.columns
  return _keep(ClassMoments(count, reference, mean, spread, scatter, moments.dropped, columns))


def _gram(rows: Array, columns: Columns | None) -> Array:
  return gram(rows) if columns is None else columns.gram(rows)


def _keep(moments: ClassMoments) -> ClassMoments:
  return moments if moments.columns is None else moments.columns.keep(moments)
