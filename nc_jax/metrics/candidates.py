"""What a feature chooses among: the class means, and the head's classes."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

from nc_jax.metrics import near_ties
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
      head; see `near_ties`.
    twins: [K] bool, classes that are the same as the first which can win.
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
      here, about, length = self._about(features[places], columns)

      def winner(question):
        scores = question.scores(about)
        score = jnp.max(scores, axis=1)
        score = score if columns is None else columns.most(score)
        close = scores >= (score - question.precision(length))[:, None]
        return near_ties.winner(here, close, question.pairs, question.twins, columns)

      return jnp.stack([winner(each) for each in self.questions], axis=1)

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
