"""Classes whose scores are too close to tell, compared in pairs."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from nc_jax.metrics.columns import Columns


def winner(
  features: Array,
  close: Array,
  pairs: tuple[Array, Array],
  twins: Array,
  columns: Columns | None = None,
) -> Array:
  """[B] int32, the best of the classes that are `close`; the first of equals wins, 0 of none.

  Args:
    features: [B, D].
    close: [B, K] bool.
    pairs: (reference, mean), [K, D] each, of class means; (weight, bias), [K, D] and [K], of a
      head.
    twins: [K] bool, classes that are all the same, as of features that died or of a head of zeros:
      these are not compared with one another.
    columns: the devices that have K classes each, if there are several. The classes are numbered
      through, and one of them is close on some device.
  """
  better = functools.partial(ahead, features, pairs)
  leader = _first_ahead(one_of_twins(close, twins), better)
  if columns is None:
    return leader

  # The devices' leaders meet likewise.
  number = leader + columns.index() * len(twins)
  own = (jnp.any(close, axis=1), number, *(x[leader] for x in pairs))
  close, numbers, *pairs = (lax.all_gather(x, columns.axes) for x in own)  # [n, B, ...] each
  pairs = [x.reshape(-1, *x.shape[2:]) for x in pairs]
  here = jnp.arange(len(features))

  def better_device(device, other):
    return ahead(features, pairs, *(k * len(features) + here for k in (device, other)))

  return numbers[_first_ahead(close.T, better_device), here]


def ahead(features: Array, pairs: tuple[Array, Array], index: Array, other: Array) -> Array:
  """[B] by how much class `index` [B] is ahead of the `other` [B], for features [B, D].

  By what does not round as scores do: ‖h − μ_j‖² − ‖h − μ_k‖² = (a_j − a_k)·(a_j + a_k) with
  a = (h − reference) − mean, or (w_k − w_j)·h + b_k − b_j. By scores means that are closer to each
  other than 1e-3 of their distance from μ_G would be mistaken, and exact ties be anybody's.

  Args:
    pairs: as for `winner`.
  """
  first, second = pairs
  if second.ndim == 1:
    slope = first[index] - first[other]
    return jnp.sum(slope * features, axis=1) + (second[index] - second[other])
  own, its = ((features - first[k]) - second[k] for k in (index, other))
  return jnp.sum((its - own) * (its + own), axis=1)


def one_of_twins(close: Array, twins: Array) -> Array:
  """[B, K] the same with the first of the twins for all of them."""
  first, some = jnp.argmax(twins), jnp.any(close & twins, axis=1)
  number = lax.broadcasted_iota(jnp.int32, close.shape, 1)
  return jnp.where((number == first) & jnp.any(twins), some[:, None], close & ~twins)


def _first_ahead(close: Array, better: Callable) -> Array:
  """[B] the best of those that are `close` [B, K]: one after another against the leader.

  Args:
    close: [B, K] bool.
    better: (index [B], other [B]) -> [B] by how much the first is ahead.
  """

  def first(left):
    return jnp.argmax(left, axis=1).astype(jnp.int32)

  def without(left, index):
    return left & (lax.broadcasted_iota(jnp.int32, left.shape, 1) != index[:, None])

  def meet(state):
    leader, left = state
    index = first(left)
    won = jnp.any(left, axis=1) & (better(index, leader) > 0)
    return jnp.where(won, index, leader), without(left, index)

  leader = first(close)
  state = leader, without(close, leader)
  return lax.while_loop(lambda state: jnp.any(state[1]), meet, state)[0]
