"""One pass over the features: batches into class moments, in chunks and over devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

from nc_jax.metrics import fold, inputs, sharding
from nc_jax.metrics.centring import check_conventions
from nc_jax.metrics.moments import ClassMoments, all_reduce, merge
from nc_jax.metrics.products import add_blocks, gram_blocks, join_blocks, panels, split_blocks


def accumulate(
  moments: ClassMoments, features, labels, mask=None, *, donate: bool = False, adopt: bool = True
) -> ClassMoments:
  """`moments` with one more batch in it; equals merge(moments, ClassMoments.of(batch)).

  Any batch size: large batches run in chunks inside one compiled call, and only the rows of
  the classes in a chunk are touched. Features in NumPy go to the device slice by slice, so they
  may be larger than its memory; a CPU reads large contiguous ones where they lie. Features that a
  NamedSharding splits by examples stay where they are: each device folds its own, and the moments
  are communicated once. (Inside jit XLA would gather them: there a shard_map is to be written, of
  all_reduce(accumulate(...), axis).) Into moments that are split by columns, the examples travel
  instead, chunk by chunk.

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
    return fold(moments, *examples, None)
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
  check_conventions(within=within)
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
    return inputs.finished(_covariance(*examples, None, moments, within, split), given)
  parts = sharding.host_slices(examples, 4 * moments.dim, place)
  total = sum(_covariance(*part, skip, moments, within, split) for part, skip in parts)
  return inputs.finished(total, given)


@jax.jit(static_argnums=(5, 6))
def _covariance(features, labels, mask, skip, moments, within, split) -> Array:
  """`split`: mesh and axes of the examples; for split moments, whether these lie by rows."""
  dtype, columns = moments.mean.dtype, moments.columns

  def weights_of(moments):
    if within == "samples":
      return jnp.ones_like(moments.spread) / moments.examples
    return 1 / (jnp.maximum(moments.count, 1).astype(dtype) * jnp.sum(moments.count > 0))

  def rows_of(chunk, moments):
    h, y, keep = chunk
    keep &= (y >= 0) & (y < moments.num_classes)
    y = jnp.where(keep, y, 0)
    away = (h.astype(dtype) - moments.reference[y]) - moments.mean[y]
    return jnp.where(keep[:, None], jnp.sqrt(weights_of(moments))[y][:, None] * away, 0)

  def local(features, labels, mask, moments):
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
    return local(features, labels, mask, moments)
  mesh, axes = split
  rows, whole = PartitionSpec(axes), PartitionSpec()
  return jax.shard_map(
    lambda *args: lax.psum(local(*args), axes),
    mesh=mesh,
    in_specs=(rows, rows, rows, whole),
    out_specs=whole,
    check_vma=False,
  )(features, labels, mask, moments)


def _fold(
  moments: ClassMoments, features: Array, labels: Array, mask, skip, adopt, by_rows=False
) -> ClassMoments:
  """`adopt` is True, False, or [K] bool. Of split moments, what one device holds."""
  if features.shape[0] == 0:
    return moments
  adopt = jnp.broadcast_to(adopt, moments.count.shape)

  def step(state: ClassMoments, chunk):
    h, y, keep = chunk
    if mask is not None:  # padding may hold anything, nan too
      h = jnp.where(keep[:, None], h, 0)
    return fold.chunk(state, h.astype(moments.mean.dtype), y, keep, adopt), None

  state = fold.opened(moments)
  if moments.columns is not None:
    state = moments.columns.scan(step, state, features, labels, mask, skip, by_rows)
  else:
    state = sharding.scan_chunks(step, state, features, labels, mask, skip)
  return fold.closed(state, moments.dim)


_accumulate = jax.jit(_fold, static_argnames="adopt")
_accumulate_donated = jax.jit(_fold, static_argnames="adopt", donate_argnums=0)


def _fold_split(
  moments: ClassMoments, features: Array, labels: Array, mask, skip, adopt, by_rows
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
    own = _fold(own, features, labels, mask, None, (moments.count == 0) & adopt)
    return all_reduce(own, axes)

  whole, rows = PartitionSpec(), PartitionSpec(axes)
  specs = (whole, rows, rows, rows)
  local = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False)
  return merge(moments, local(moments, features, labels, mask))
