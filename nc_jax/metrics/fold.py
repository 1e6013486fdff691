"""One chunk of examples into class moments, panel of columns by panel."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from nc_jax.metrics import sharding
from nc_jax.metrics.moments import ClassMoments
from nc_jax.metrics.products import (
  add_blocks,
  gram_blocks,
  join_blocks,
  panels,
  split_blocks,
  squared_norms,
)


def opened(moments: ClassMoments) -> ClassMoments:
  """The state of a pass: the scatter is a tuple of blocks, reference and mean are of panels.

  A CPU works on several panels at once. Of more classes than a chunk has examples, reference and
  mean stay whole, and so does all that a device holds of split moments.
  """
  if moments.columns is not None:
    return moments
  state = moments
  if moments.scatter is not None:
    state = dataclasses.replace(state, scatter=split_blocks(moments.scatter))
  if moments.num_classes <= sharding.chunk_rows(moments.dim):
    cut = {"reference": _in_panels(moments.reference), "mean": _in_panels(moments.mean)}
    state = dataclasses.replace(state, **cut)
  return state


def closed(state: ClassMoments, dim: int) -> ClassMoments:
  """The class moments of a state, in dim = D columns."""
  scatter = join_blocks(state.scatter, dim) if isinstance(state.scatter, tuple) else state.scatter
  whole = {"reference": _joined(state.reference), "mean": _joined(state.mean)}
  return dataclasses.replace(state, scatter=scatter, **whole)


def _in_panels(x: Array) -> tuple[Array, ...]:
  return tuple(x[:, own] for own in panels(x.shape[1]))


def _joined(x: tuple[Array, ...] | Array) -> Array:
  return jnp.concatenate(x, axis=1) if isinstance(x, tuple) else x


class _Classes(NamedTuple):
  """What a chunk reads of the state, a row per class or per class in the chunk."""

  count: Array
  reference: tuple[Array, ...] | Array
  mean: tuple[Array, ...] | Array
  spread: Array
  adopt: Array


def chunk(
  state: ClassMoments, features: Array, labels: Array, mask: Array, adopt: Array
) -> ClassMoments:
  """One chunk into the state; or, of split moments, one device's columns into its part of them.

  Chan's merge adds w δδᵀ per class to the scatter. Here the rows of each class are instead
  centred on a point between the chunk's mean m_b and the running mean m_a, δ = m_b − m_a,

      z = x − m_b + √(n_a / n) δ        Σ z zᵀ = Σ (x − m_b)(x − m_b)ᵀ + (n_a n_b / n) δδᵀ

  so that one product zᵀz carries both terms, whatever the number of classes.

  Args:
    state: see `opened`.
    features: [B, D].
    labels: [B] integers; those outside [0, K) are left out and counted in `dropped`.
    mask: [B] bool, True for the examples that count.
    adopt: [K] bool, whether a class not yet seen takes its first example as reference.
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

  total = functools.partial(_class_sums, labels=labels, slots=slots)

  def of_class(x):
    return x.at[labels].get(mode="clip")

  n_a, n_b = seen.count, total(jnp.ones_like(labels))
  n = jnp.maximum(n_a + n_b, 1).astype(features.dtype)
  # A new class is measured from its first example: exact, and one class width from the mean.
  first = jax.ops.segment_min(jnp.arange(size), labels, slots)
  new = seen.adopt & (n_a == 0) & (n_b > 0)

  def panel(h, old, mean):
    """New reference and mean [K, W], and z [B, W], of columns h [B, W] of the features."""
    example = lax.stop_gradient(h.at[first].get(mode="clip"))
    reference = jnp.where(new[:, None], example, old)
    x = h - of_class(reference)
    mean_b = total(x) / jnp.maximum(n_b, 1).astype(x.dtype)[:, None]
    delta = mean_b - mean
    z = x - of_class(mean_b - jnp.sqrt(n_a / n)[:, None] * delta)
    return reference, mean + (n_b / n)[:, None] * delta, z

  cut = _in_panels if columns is None else lambda x: (x,)
  given = (features, seen.reference, seen.mean)
  given = (x if isinstance(x, tuple) else cut(x) for x in given)
  references, means, parts = zip(*map(panel, *given), strict=True)
  if state.scatter is None:
    scatter, squares = None, sum(squared_norms(z, new=True) for z in parts)
  else:
    parts = [jnp.where(keep[:, None], z, 0) for z in parts]
    squares = sum(map(squared_norms, parts))
    if columns is None:
      scatter = add_blocks(state.scatter, gram_blocks(parts), jnp.any(keep))
    else:
      scatter = state.scatter + columns.product(*parts)
  if columns is not None:
    squares = columns.total(squares)
  if not isinstance(state.mean, tuple):
    references, means = _joined(references), _joined(means)
  now = (n_a + n_b, references, means, seen.spread + total(squares))
  if slots < num_classes:
    old = (state.count, state.reference, state.mean, state.spread)
    now = jax.tree.map(lambda x, y: x.at[rows].set(y, mode="drop", unique_indices=True), old, now)
  dropped = state.dropped + jnp.sum(mask & ~inside, dtype=jnp.int32)
  return ClassMoments(*now, scatter, dropped, columns)


def _class_sums(x: Array, labels: Array, slots: int) -> Array:
  """[S, ...] sums of x [B, ...] by class; labels of S = slots and more are left out.

  An accelerator adds to a number once at a time. Few classes therefore get several sums each,
  which the examples take in turns.
  """
  copies = 1 if jax.default_backend() == "cpu" else 128 // slots
  if copies < 2:
    return jax.ops.segment_sum(x, labels, slots)
  turns = jnp.arange(labels.size, dtype=labels.dtype) % copies
  sums = jax.ops.segment_sum(x, labels * copies + turns, slots * copies)
  return jnp.sum(sums.reshape(slots, copies, *x.shape[1:]), axis=1, dtype=x.dtype)


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
