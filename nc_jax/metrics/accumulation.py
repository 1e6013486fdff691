"""One pass over the features: batches into class moments, in chunks and over devices."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

from nc_jax.metrics import inputs, sharding
from nc_jax.metrics.centring import choose
from nc_jax.metrics.moments import ClassMoments, all_reduce, merge
from nc_jax.metrics.products import (
  add_blocks,
  gram_blocks,
  join_blocks,
  panels,
  split_blocks,
  squared_norms,
)


def accumulate(
  moments: ClassMoments, features, labels, mask=None, *, donate: bool = False, adopt: bool = True
) -> ClassMoments:
  """`moments` with one more batch in it; equals merge(moments, ClassMoments.of(batch)).

  Any batch size: large batches run in chunks inside one compiled call, and only the rows of
  the classes in a chunk are touched. Features in NumPy go to the device slice by slice, so they
  may be larger than its memory; a CPU reads large contiguous ones where they lie. Features that a
  NamedSharding splits by examples stay where they are: each device folds its own, and the moments
  are communicated once. Into moments that are split by columns, the examples travel instead, chunk
  by chunk.

  Args:
    moments: what has been seen so far.
    features: [N, D] numbers from NumPy, JAX or torch; bfloat16, float16 and integers are
      converted to float32 before anything is subtracted.
    labels: [N] integers in [0, K).
    mask: [N] bool, True for the examples that count; None counts all.
    donate: reuse the memory of `moments`, which must not be touched afterwards: several times
      faster for tens of thousands of classes and small batches. No effect inside jit.
    adopt: classes not yet seen take their first example as reference. False keeps the
      references that `moments` came with.

  Returns: the new moments. A nan or inf feature makes its class, and the scatter, nan. Features of
    NumPy or torch have been read by then: their memory may take the next batch.

  Raises:
    ValueError, TypeError: shapes, dtypes, or (outside jit) labels outside [0, K). Inside jit
      such examples are left out and counted in `dropped`.
  """
  inputs.check_moments(moments)
  given = (features, labels, mask)
  features, labels, mask = inputs.check_examples(*given, moments.num_classes, moments.dim)
  columns, examples, options = moments.columns, (features, labels, mask), {"adopt": adopt}
  place, kernels = None, (_accumulate, _accumulate_donated)
  if columns is not None:
    examples, options["by_rows"] = columns.arrange(*examples)
    place, kernels = columns.place, (_accumulate_split, _accumulate_split_donated)
  elif (split := sharding.split_of(features)) is not None:
    return inputs.finished(_accumulate_sharded(moments, *examples, *split, adopt), given)
  fold, donated = (functools.partial(kernel, **options) for kernel in kernels)
  if inputs.is_traced(moments, examples):
    return fold(moments, *examples, 0)
  least = max(4 * moments.dim, moments.num_classes)
  first = donated if donate else fold
  return inputs.finished(
    sharding.fold_slices((first, fold), moments, examples, least, place), given
  )


def within_covariance(
  features, labels, moments: ClassMoments, mask=None, *, within: str = "classes"
) -> Array:
  """[D, D] Σ_W in a second pass about the class means of `moments`.

      "classes"  (1/C) Σ_k (1/n_k) Σ_{i in k} (h_i − μ_k)(h_i − μ_k)ᵀ, every class weighs the same
      "samples"  the same over all examples, / N: scatter / N of the first pass

  The scatter of the moments is pooled over classes, so only a second pass can weigh by class.

  Args: as for `accumulate`; `moments` are those of the same examples.

  Raises: as `accumulate`; ValueError for an unknown `within`.
  """
  choose("within", within, ("samples", "classes"))
  inputs.check_moments(moments)
  given = (features, labels, mask)
  features, labels, mask = inputs.check_examples(*given, moments.num_classes, moments.dim)
  columns, examples, place = moments.columns, (features, labels, mask), None
  if columns is not None:
    examples, split = columns.arrange(*examples)
    place = columns.place
  else:
    split = sharding.split_of(features)
  if split or inputs.is_traced(examples, moments):
    return inputs.finished(_covariance(*examples, 0, moments, within, split), given)
  parts = sharding.host_slices(examples, 4 * moments.dim, place)
  total = sum(_covariance(*part, skip, moments, within, split) for part, skip in parts)
  return inputs.finished(total, given)


@jax.jit(static_argnums=(5, 6))
def _covariance(features, labels, mask, skip, moments, within, split) -> Array:
  """`split`: mesh and axes of the examples; for split moments, whether these lie by rows."""
  dtype, columns = moments.mean.dtype, moments.columns
  count = jnp.maximum(moments.count, 1).astype(dtype)
  if within == "classes":
    weights = 1 / (count * jnp.sum(moments.count > 0))
  else:
    weights = jnp.ones_like(count) / jnp.sum(moments.count)

  def rows_of(chunk, moments):
    h, y, keep = chunk
    keep &= (y >= 0) & (y < moments.num_classes)
    y = jnp.where(keep, y, 0)
    away = (h.astype(dtype) - moments.reference[y]) - moments.mean[y]
    return jnp.where(keep[:, None], jnp.sqrt(weights)[y][:, None] * away, 0)

  def local(features, labels, mask):
    def step(blocks, chunk):
      rows = rows_of(chunk, moments)
      more = gram_blocks([rows[:, own] for own in panels(moments.dim)])
      return add_blocks(blocks, more, jnp.any(chunk[2])), None

    blocks = split_blocks(jnp.zeros((moments.dim, moments.dim), dtype))
    if features.shape[0] > 0:
      blocks = sharding.scan_chunks(step, blocks, features, labels, mask, skip)
    return join_blocks(blocks, moments.dim)

  def local_columns(features, labels, mask, moments):
    def step(total, chunk):
      return total + columns.product(rows_of(chunk, moments)), None

    width = moments.dim  # of this device
    total = jnp.zeros((width, width * columns.mesh.size), dtype)
    return columns.scan(step, total, features, labels, mask, skip, split)

  if columns is not None:
    specs = (*columns.examples(split), columns.specs(moments))
    return columns.map(local_columns, specs, columns.rows)(features, labels, mask, moments)
  if split is None:
    return local(features, labels, mask)
  mesh, axes = split
  rows = PartitionSpec(axes)
  return jax.shard_map(
    lambda *args: lax.psum(local(*args), axes),
    mesh=mesh,
    in_specs=(rows, rows, rows),
    out_specs=PartitionSpec(),
    check_vma=False,
  )(features, labels, mask)


def _fold(
  moments: ClassMoments, features: Array, labels: Array, mask, skip: int, adopt, by_rows=False
) -> ClassMoments:
  """`adopt` is True, False, or [K] bool. Of split moments, what one device holds."""
  if features.shape[0] == 0:
    return moments
  adopt = jnp.broadcast_to(adopt, moments.count.shape)

  def step(state: ClassMoments, chunk):
    h, y, keep = chunk
    if mask is not None:  # padding may hold anything, nan too
      h = jnp.where(keep[:, None], h, 0)
    return _fold_chunk(state, h.astype(moments.mean.dtype), y, keep, adopt), None

  if moments.columns is not None:
    return moments.columns.scan(step, moments, features, labels, mask, skip, by_rows)
  blocks = None if moments.scatter is None else split_blocks(moments.scatter)
  state = dataclasses.replace(moments, scatter=blocks)
  state = sharding.scan_chunks(step, state, features, labels, mask, skip)
  if blocks is None:
    return state
  return dataclasses.replace(state, scatter=join_blocks(state.scatter, moments.dim))


_accumulate = jax.jit(_fold, static_argnames="adopt")
_accumulate_donated = jax.jit(_fold, static_argnames="adopt", donate_argnums=0)


def _fold_split(
  moments: ClassMoments, features: Array, labels: Array, mask, skip: int, adopt, by_rows
) -> ClassMoments:
  columns = moments.columns
  local = functools.partial(_fold, adopt=adopt, by_rows=by_rows)
  specs = columns.specs(moments)
  in_specs = (specs, *columns.examples(by_rows), PartitionSpec())
  return columns.map(local, in_specs, specs)(moments, features, labels, mask, skip)


_OPTIONS = ("adopt", "by_rows")
_accumulate_split = jax.jit(_fold_split, static_argnames=_OPTIONS)
_accumulate_split_donated = jax.jit(_fold_split, static_argnames=_OPTIONS, donate_argnums=0)


@jax.jit(static_argnums=(4, 5, 6))
def _accumulate_sharded(moments, features, labels, mask, mesh, axes, adopt) -> ClassMoments:
  def local(moments, features, labels, mask):
    zero = jax.tree.map(jnp.zeros_like, moments)
    # Seen classes keep the reference that every device knows; the others are reconciled.
    own = dataclasses.replace(zero, reference=moments.reference)
    own = _fold(own, features, labels, mask, 0, (moments.count == 0) & adopt)
    return all_reduce(own, axes)

  whole, rows = PartitionSpec(), PartitionSpec(axes)
  specs = (whole, rows, rows, rows)
  local = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False)
  return merge(moments, local(moments, features, labels, mask))


class _Classes(NamedTuple):
  """What a chunk reads of the state, a row per class or per class in the chunk."""

  count: Array
  reference: Array
  mean: Array
  spread: Array
  adopt: Array


def _fold_chunk(
  state: ClassMoments, features: Array, labels: Array, mask: Array, adopt: Array
) -> ClassMoments:
  """One chunk into the state, whose scatter is kept as upper block rows; or, of split moments,
  one device's columns of a chunk into its part of them.

  Chan's merge adds w δδᵀ per class to the scatter. Here the rows of each class are instead
  centred on a point between the chunk's mean m_b and the running mean m_a, δ = m_b − m_a,

      z = x − m_b + √(n_a / n) δ        Σ z zᵀ = Σ (x − m_b)(x − m_b)ᵀ + (n_a n_b / n) δδᵀ

  so that one product zᵀz carries both terms, whatever the number of classes.
  """
  num_classes, size, columns = state.count.shape[0], features.shape[0], state.columns
  inside = (labels >= 0) & (labels < num_classes)
  keep = mask & inside
  seen = _Classes(state.count, state.reference, state.mean, state.spread, adopt)
  slots = min(num_classes, size)
  if slots < num_classes:
    rows, labels = _present_rows(jnp.where(keep, labels, num_classes), num_classes)
    seen = jax.tree.map(lambda x: x.at[rows].get(mode="fill", fill_value=0), seen)
  # Beyond the last slot: segment sums drop it, lookups clip it. A [B, D] select costs more.
  labels = jnp.where(keep, labels, slots)

  def total(x):
    return jax.ops.segment_sum(x, labels, slots)

  def of_class(x):
    return x.at[labels].get(mode="clip")

  n_a, n_b = seen.count, total(jnp.ones_like(labels))
  n = jnp.maximum(n_a + n_b, 1).astype(features.dtype)
  # A new class is measured from its first example: exact, and one class width from the mean.
  first = jax.ops.segment_min(jnp.arange(size), labels, slots)
  new = seen.adopt & (n_a == 0) & (n_b > 0)
  example = features.at[first].get(mode="clip")
  reference = jnp.where(new[:, None], lax.stop_gradient(example), seen.reference)

  x = features - of_class(reference)
  mean_b = total(x) / jnp.maximum(n_b, 1).astype(x.dtype)[:, None]
  delta = mean_b - seen.mean
  shift = mean_b - jnp.sqrt(n_a / n)[:, None] * delta

  def centred(own: slice) -> Array:
    """[B, W] these columns of z, 0 for what does not count."""
    return jnp.where(keep[:, None], x[:, own] - of_class(shift[:, own]), 0)

  if state.scatter is None:
    squares, scatter = squared_norms(x - of_class(shift), new=True), None
  elif columns is not None:
    z = centred(slice(None))
    squares, scatter = squared_norms(z), state.scatter + columns.product(z)
  else:
    parts = [centred(own) for own in panels(x.shape[1])]
    squares = sum(map(squared_norms, parts))
    scatter = add_blocks(state.scatter, gram_blocks(parts), jnp.any(keep))
  if columns is not None:
    squares = columns.total(squares)
  now = (n_a + n_b, reference, seen.mean + (n_b / n)[:, None] * delta, seen.spread + total(squares))
  if slots < num_classes:
    old = (state.count, state.reference, state.mean, state.spread)
    now = [
      x.at[rows].set(y, mode="drop", unique_indices=True) for x, y in zip(old, now, strict=True)
    ]
  dropped = state.dropped + jnp.sum(mask & ~inside, dtype=jnp.int32)
  return ClassMoments(*now, scatter, dropped, columns)


def _present_rows(labels: Array, num_classes: int) -> tuple[Array, Array]:
  """The classes in a chunk, as rows of the state.

  Args:
    labels: [B] class of each example, num_classes for one that does not count.
    num_classes: K.

  Returns:
    rows: [B] int32, class of each slot, all distinct; unused slots lie beyond K.
    slot: [B] int32, slot of each example.
  """
  size = labels.shape[0]
  order = jnp.argsort(labels)
  ordered = labels[order]
  starts = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
  rank = jnp.cumsum(starts, dtype=jnp.int32) - 1
  rows = num_classes + 1 + jnp.arange(size, dtype=jnp.int32)
  return rows.at[rank].set(ordered), jnp.zeros_like(rank).at[order].set(rank)
