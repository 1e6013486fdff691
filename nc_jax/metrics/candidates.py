"""What a feature chooses among: the class means, and the head's classes."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from nc_jax.metrics.centring import centre, logits_at_centre
from nc_jax.metrics.columns import Columns
from nc_jax.metrics.moments import ClassMoments, Head
from nc_jax.metrics.products import HIGHEST
from nc_jax.metrics.sharding import varying

CLASS_TILE = 512  # scores are held for this many classes at a time, on accelerators twice as many
_BLOCK = 32  # near ties settled at a time


class Question(NamedTuple):
  """One choice to be made among K classes, by the highest score; the first of equals wins.

  Scores are products and round. Those nearer to one another than that are compared in `pairs`.

  Attributes:
    rows, bias: [K, D] and [K], score_k = (h − μ_G)·rows_k + bias_k.
    pairs: (reference, mean), [K, D] each, of class means; (weight, bias), [K, D] and [K], of a
      head.
    twins: [K] bool, classes that are the same as the first which can win, as all are of features
      that died or of a head of zeros: these need not be compared with one another.
  """

  rows: Array
  bias: Array
  pairs: tuple[Array, Array]
  twins: Array

  @classmethod
  def of(cls, rows: Array, bias: Array, pairs: tuple[Array, Array]) -> "Question":
    twins = jnp.isfinite(bias)
    first = jnp.argmax(twins)
    for x in pairs:
      twins &= jnp.all((x == x[first]).reshape(len(x), -1), axis=1)
    return cls(rows, bias, pairs, twins)

  def precision(self, about: Array) -> Array:
    """[B] what rounding may take from a score of h − μ_G = `about` [B, D]."""
    size = jnp.sqrt(jnp.max(jnp.sum(self.rows**2, axis=1)))
    most = jnp.max(jnp.where(jnp.isfinite(self.bias), jnp.abs(self.bias), 0))
    length = jnp.sqrt(jnp.sum(about**2, axis=1))
    return 100 * jnp.finfo(about.dtype).eps * (length * size + most)


def ahead(features: Array, pairs: tuple[Array, Array], index: Array, other: Array) -> Array:
  """[B] by how much class `index` [B] is ahead of the `other` [B], for features [B, D].

  By what does not round as scores do: ‖h − μ_j‖² − ‖h − μ_k‖² = (a_j − a_k)·(a_j + a_k) with
  a = (h − reference) − mean, or (w_k − w_j)·h + b_k − b_j. By scores means that are closer to each
  other than 1e-3 of their distance from μ_G would be mistaken, and exact ties be anybody's.

  Args:
    pairs: as in `Question`.
  """
  first, second = pairs
  if second.ndim == 1:
    slope = first[index] - first[other]
    return jnp.sum(slope * features, axis=1) + (second[index] - second[other])
  own, its = ((features - first[k]) - second[k] for k in (index, other))
  return jnp.sum((its - own) * (its + own), axis=1)


class Candidates(NamedTuple):
  """What a feature chooses among.

      argmin_k ‖h − μ_k‖² = argmax_k (h − μ_G)·m_k − ‖m_k‖²/2     m_k = μ_k − μ_G

  Centred on both sides: the expanded distance would lose the decision to a common offset.

  Attributes:
    base, offset: [D], whose sum is μ_G.
    questions: of the class means and, with a head, of the head. For split moments a device holds
      whole rows of some of the classes, see `Columns.by_classes`.
  """

  base: Array
  offset: Array
  questions: list[Question]

  @classmethod
  def of(cls, moments: ClassMoments, head: Head | None = None) -> "Candidates":
    centred = centre(moments)
    means, present, _, base, offset = centred
    bias = jnp.where(present, -jnp.sum(means**2, axis=1) / 2, -jnp.inf)
    questions = [Question.of(means, bias, (moments.reference, moments.mean))]
    if head is not None:
      own = jnp.zeros_like(bias) if head.bias is None else head.bias
      logits = logits_at_centre(centred, head)
      questions.append(Question.of(head.weight, logits, (head.weight, own)))
    if moments.columns is not None:
      questions = [_by_classes(each, moments.columns) for each in questions]
    return cls(base, offset, lax.stop_gradient(questions))

  def chosen_by(self, features: Array, columns: Columns | None = None) -> list[Array]:
    """The nearest present class mean [B] int32 and, with a head, its choice."""
    base, offset, questions = self
    features = lax.stop_gradient(features.astype(base.dtype))
    if columns is not None:
      features, base, offset = map(columns.whole, (features, base[None], offset[None]))
    about = (features - base) - offset
    best = _best_rows(features, about, questions)
    if columns is None:
      return [index for _, index in best]
    return [
      _best_of_devices(features, each, each.precision(about), *champion, columns)
      for each, champion in zip(questions, best, strict=True)
    ]


def _by_classes(question: Question, columns: Columns) -> Question:
  """The same, split by classes where it was by columns; classes that win nothing fill up."""
  missing = -len(question.bias) % columns.mesh.size
  rows = columns.by_classes(question.rows)

  def laid(x):
    if x is question.rows:
      return rows
    return columns.by_classes(x) if x.ndim == 2 else jnp.pad(x, (0, missing))

  bias = jnp.pad(question.bias, (0, missing), constant_values=-jnp.inf)
  return Question(rows, bias, tuple(map(laid, question.pairs)), laid(question.twins))


def _best_rows(
  features: Array, about: Array, questions: list[Question]
) -> list[tuple[Array, Array]]:
  """[B] the highest score of each question, and whose it is, int32."""
  if len(questions) * len(questions[0].bias) > CLASS_TILE:
    return [_best_row(features, about, each) for each in questions]
  # Of few classes, one product for all: a narrow one takes as long.
  rows = jnp.concatenate([each.rows for each in questions])
  scores = jnp.matmul(about, rows.T, precision=HIGHEST)
  scores += jnp.concatenate([each.bias for each in questions])
  return [
    _best(own, features, each, each.precision(about))
    for own, each in zip(jnp.split(scores, len(questions), axis=1), questions, strict=True)
  ]


def _best_row(features: Array, about: Array, question: Question) -> tuple[Array, Array]:
  """The same of one question, by tiles of classes."""
  num_classes = len(question.bias)
  precision = question.precision(about)

  def best(question: Question) -> tuple[Array, Array]:
    scores = jnp.matmul(about, question.rows.T, precision=HIGHEST) + question.bias
    return _best(scores, features, question, precision)

  most = CLASS_TILE if jax.default_backend() == "cpu" else 2 * CLASS_TILE
  if num_classes <= 2 * most:
    return best(question)
  tiles = -(-num_classes // most)
  width = -(-num_classes // tiles)

  def step(champion, tile):
    # The last tile starts early rather than run over; seeing a class twice changes nothing.
    start = jnp.minimum(tile * width, num_classes - width)
    cut = functools.partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=width)
    score, index = best(jax.tree.map(cut, question))
    index += start
    margin = score - champion[0]
    close = jnp.abs(margin) <= precision
    margin = lax.cond(
      jnp.any(close),
      lambda: jnp.where(close, ahead(features, question.pairs, index, champion[1]), margin),
      lambda: margin,
    )
    better = margin > 0
    return (jnp.where(better, score, champion[0]), jnp.where(better, index, champion[1])), None

  worst = jnp.full_like(precision, -jnp.inf)
  first = varying((worst, jnp.zeros_like(worst, jnp.int32)), about)
  return lax.scan(step, first, jnp.arange(tiles))[0]


def _best(
  scores: Array, features: Array, question: Question, precision: Array
) -> tuple[Array, Array]:
  """[B] the highest of scores [B, K], and where it is first, int32; near ties are settled."""
  # Not jnp.argmax, which a CPU runs score by score: the largest, then the first that equals it.
  score, last = jnp.max(scores, axis=1), scores.shape[1] - 1
  number = lax.broadcasted_iota(jnp.int32, scores.shape, 1)
  index = jnp.min(jnp.where(scores == score[:, None], number, last), axis=1)
  close = scores >= (score - precision)[:, None]

  def settle(places):
    better = functools.partial(ahead, features[places], question.pairs)
    return _first_ahead(_one_of_twins(close[places], question.twins), better)

  return score, _settled(index, jnp.sum(close, axis=1) > 1, settle)


def _one_of_twins(close: Array, twins: Array) -> Array:
  """[B, K] the same with the first of the twins for all of them."""
  first, some = jnp.argmax(twins), jnp.any(close & twins, axis=1)
  return (close & ~twins).at[:, first].set(some | close[:, first])


def _best_of_devices(
  features: Array,
  question: Question,
  precision: Array,
  score: Array,
  index: Array,
  columns: Columns,
) -> Array:
  """[B] the best class on any device, from the score and index [B] of the best on this one."""
  precision, classes = columns.most(precision), len(question.bias)
  rival = score >= columns.most(score) - precision
  number = index + columns.index() * classes
  first = columns.least(jnp.where(rival, number, columns.mesh.size * classes - 1))

  def settle(places):
    own = (rival[places], number[places], *(x[index[places]] for x in question.pairs))
    close, numbers, *pairs = (lax.all_gather(x, columns.axes) for x in own)  # [n, b, ...] each
    pairs = [x.reshape(-1, *x.shape[2:]) for x in pairs]
    here = jnp.arange(len(places))

    def better(device, other):
      rows = (k * len(places) + here for k in (device, other))
      return ahead(features[places], pairs, *rows)

    return numbers[_first_ahead(close.T, better), here]

  return _settled(first, columns.total(rival.astype(jnp.int32)) > 1, settle)


def _settled(index: Array, tied: Array, settle: Callable) -> Array:
  """[B] `index`, or settle(places [b]) -> [b] where `tied` [B]; a few places at a time."""
  (order,) = jnp.nonzero(tied, size=tied.size, fill_value=0)  # those in need come first
  rows = min(_BLOCK, tied.size)

  def step(block, index):
    places = lax.dynamic_slice_in_dim(order, block * rows, rows)
    return index.at[places].set(settle(places))

  return lax.fori_loop(0, -(-jnp.sum(tied) // rows), step, index)


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
