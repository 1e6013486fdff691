"""What a feature chooses among: the class means, and the head's classes."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

from nc_jax.metrics.centring import centre, logits_at_centre
from nc_jax.metrics.columns import Columns
from nc_jax.metrics.moments import ClassMoments, Head
from nc_jax.metrics.products import HIGHEST
from nc_jax.metrics.sharding import replaced_where, varying

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
    rounding: ([], []), what rounding may take from a score is the first times ‖h − μ_G‖, and the
      second.
  """

  rows: Array
  bias: Array
  pairs: tuple[Array, Array]
  twins: Array
  rounding: tuple[Array, Array]

  @classmethod
  def of(cls, rows: Array, bias: Array, pairs: tuple[Array, Array]) -> "Question":
    able = jnp.isfinite(bias)
    twins, first = able, jnp.argmax(able)
    for x in pairs:
      twins &= jnp.all((x == x[first]).reshape(len(x), -1), axis=1)
    longest = jnp.sqrt(jnp.max(jnp.sum(rows**2, axis=1)))
    largest = jnp.max(jnp.where(able, jnp.abs(bias), 0))
    epsilon = 100 * jnp.finfo(rows.dtype).eps
    return cls(rows, bias, pairs, twins, (epsilon * longest, epsilon * largest))

  def scores(self, about: Array) -> Array:
    """[B, K] of h − μ_G = `about` [B, D]."""
    return jnp.matmul(about, self.rows.T, precision=HIGHEST) + self.bias

  def precision(self, length: Array) -> Array:
    """[B] what rounding may take from a score, for ‖h − μ_G‖ = `length` [B]."""
    slope, least = self.rounding
    return slope * length + least


class Champion(NamedTuple):
  """The highest score, whose it is, int32, and the highest that another has; [B, Q] each."""

  score: Array
  index: Array
  second: Array


class Candidates(NamedTuple):
  """What a feature chooses among.

      argmin_k ‖h − μ_k‖² = argmax_k (h − μ_G)·m_k − ‖m_k‖²/2     m_k = μ_k − μ_G

  Centred on both sides: the expanded distance would lose the decision to a common offset.

  Attributes:
    base, offset: [D], whose sum is μ_G.
    questions: Q of them, of the class means and, with a head, of the head. For split moments a
      device holds whole rows of some of the classes, see `Columns.by_classes`.
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

  def specs(self, columns: Columns) -> "Candidates":
    """How the leaves lie, of split moments; a tree of the same structure."""
    return jax.tree.map(lambda x: columns.rows if x.ndim else PartitionSpec(), self)

  def chosen_by(self, features: Array, columns: Columns | None = None) -> Array:
    """[B, Q] int32, the nearest present class mean and, with a head, its choice."""
    return self.settled(features, *self.guessed(features, columns), columns)

  def guessed(self, features: Array, columns: Columns | None = None) -> tuple[Array, Array]:
    """The choices [B, Q] by scores alone, and where these are too close to tell, [B] bool."""
    _, about, length = self._about(features, columns)
    best = _champions(about, self.questions)
    precision = jnp.stack([each.precision(length) for each in self.questions], axis=1)
    score = best.score if columns is None else columns.most(best.score)
    rivals = [x >= score - precision for x in (best.score, best.second)]
    if columns is None:
      return best.index, jnp.any(rivals[1], axis=1)
    classes = len(self.questions[0].bias)
    number = best.index + columns.index() * classes
    number = columns.least(jnp.where(rivals[0], number, columns.mesh.size * classes - 1))
    rivals = columns.total(sum(x.astype(jnp.int32) for x in rivals))
    return number, jnp.any(rivals > 1, axis=1)

  def settled(
    self, features: Array, choices: Array, tied: Array, columns: Columns | None = None
  ) -> Array:
    """[B, Q] the `choices`, made anew in pairs where `tied` [B]: a few examples at a time.

    Few or none are, and each asks for as much as scores do.
    """

    def decided(places):
      here = self._about(features[places], columns)
      return jnp.stack([_winner(each, *here, columns) for each in self.questions], axis=1)

    return replaced_where(tied, decided, choices, _BLOCK)

  def _about(self, features: Array, columns: Columns | None) -> tuple[Array, Array, Array]:
    """h and h − μ_G, [B, D] each and whole, and ‖h − μ_G‖ [B]."""
    base, offset = self.base, self.offset
    features = lax.stop_gradient(features.astype(base.dtype))
    if columns is not None:
      features, base, offset = map(columns.whole, (features, base[None], offset[None]))
    about = (features - base) - offset
    return features, about, jnp.sqrt(jnp.sum(about**2, axis=1))


def _by_classes(question: Question, columns: Columns) -> Question:
  """The same, split by classes where it was by columns; classes that win nothing fill up."""
  missing = -len(question.bias) % columns.mesh.size
  rows = columns.by_classes(question.rows)

  def laid(x):
    if x is question.rows:
      return rows
    return columns.by_classes(x) if x.ndim == 2 else jnp.pad(x, (0, missing))

  bias = jnp.pad(question.bias, (0, missing), constant_values=-jnp.inf)
  pairs, twins = tuple(map(laid, question.pairs)), laid(question.twins)
  return question._replace(rows=rows, bias=bias, pairs=pairs, twins=twins)


def _champions(about: Array, questions: list[Question]) -> Champion:
  """By the scores of h − μ_G = `about` [B, D]."""
  if len(questions) * len(questions[0].bias) > CLASS_TILE:
    best = [_champion_of(each, about) for each in questions]
    return jax.tree.map(lambda *x: jnp.stack(x, axis=1), *best)
  # Of few classes, one product for all: a narrow one takes as long.
  rows = jnp.concatenate([each.rows for each in questions])
  scores = jnp.matmul(about, rows.T, precision=HIGHEST)
  scores += jnp.concatenate([each.bias for each in questions])
  return _champion(scores.reshape(len(about), len(questions), -1))


def _champion_of(question: Question, about: Array) -> Champion:
  """Of one question, [B] each, by tiles of classes."""
  num_classes = len(question.bias)
  most = CLASS_TILE if jax.default_backend() == "cpu" else 2 * CLASS_TILE
  if num_classes <= 2 * most:
    return _champion(question.scores(about))
  tiles = -(-num_classes // most)
  width = -(-num_classes // tiles)

  def step(best: Champion, tile):
    # The last tile starts early rather than run over; the classes that were seen stay out of it.
    start = jnp.minimum(tile * width, num_classes - width)
    cut = functools.partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=width)
    new = start + jnp.arange(width) >= tile * width
    scores = jnp.matmul(about, cut(question.rows).T, precision=HIGHEST)
    own = _champion(scores + jnp.where(new, cut(question.bias), -jnp.inf))
    better = own.score > best.score
    second = jnp.where(better, own.second, best.second)
    return Champion(
      jnp.maximum(best.score, own.score),
      jnp.where(better, start + own.index, best.index),
      jnp.maximum(second, jnp.minimum(best.score, own.score)),
    ), None

  worst = jnp.full(len(about), -jnp.inf, about.dtype)
  first = varying(Champion(worst, jnp.zeros_like(worst, jnp.int32), worst), about)
  return lax.scan(step, first, jnp.arange(tiles))[0]


def _champion(scores: Array) -> Champion:
  """Of scores [..., K]."""
  # Not jnp.argmax, which a CPU runs score by score: the largest, then the first that equals it.
  score, last = jnp.max(scores, axis=-1), scores.shape[-1] - 1
  number = lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
  index = jnp.min(jnp.where(scores == score[..., None], number, last), axis=-1)
  second = jnp.max(jnp.where(number == index[..., None], -jnp.inf, scores), axis=-1)
  return Champion(score, index, second)


def _winner(
  question: Question, features: Array, about: Array, length: Array, columns: Columns | None
) -> Array:
  """[B] int32, the best of the classes whose scores are within rounding of the highest."""
  scores = question.scores(about)
  score = jnp.max(scores, axis=1)
  if columns is not None:
    score = columns.most(score)
  close = scores >= (score - question.precision(length))[:, None]
  better = functools.partial(ahead, features, question.pairs)
  leader = _first_ahead(_one_of_twins(close, question.twins), better)
  if columns is None:
    return leader

  # The devices' leaders meet likewise.
  number = leader + columns.index() * len(question.bias)
  own = (jnp.any(close, axis=1), number, *(x[leader] for x in question.pairs))
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
    pairs: as in `Question`.
  """
  first, second = pairs
  if second.ndim == 1:
    slope = first[index] - first[other]
    return jnp.sum(slope * features, axis=1) + (second[index] - second[other])
  own, its = ((features - first[k]) - second[k] for k in (index, other))
  return jnp.sum((its - own) * (its + own), axis=1)


def _one_of_twins(close: Array, twins: Array) -> Array:
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
