"""NC4: the nearest class mean against the labels and the linear classifier; a second pass."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

from nc_jax.metrics import certainty, inputs, sharding
from nc_jax.metrics.candidates import Candidates
from nc_jax.metrics.moments import ClassMoments, Head, fitting_head
from nc_jax.metrics.products import HIGHEST, squared_norms
from nc_jax.metrics.variability import Whitener, whitener


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Decisions:
  """Sums over examples about fixed class means; a pytree, and additive.

  Adding two of them leaf by leaf merges them, so `jax.lax.psum(decisions, axis_name)` is the
  all-reduce. Leaves are None where the question was not asked: without a head, or, for
  `whitened`, with a scatter at hand.

  Attributes:
    count: [] int32, examples with a label in [0, K) and not masked; below 2³¹.
    placed: [] int32, those whose class has a mean.
    ncc_wrong: [] int32, the nearest class mean is not that of the label; an example whose class
      has no mean is always wrong.
    classifier_wrong: [] int32, argmax of the logits is not the label; None without a head.
    mismatch: [] int32, argmax of the logits is not the nearest class mean; None without a head.
    own_distance: [] sum of ‖h − μ_y‖² over the placed.
    nearest_distance: [] sum of min_k ‖h − μ_k‖² over the placed.
    feature_norm: [] sum of ‖h‖.
    whitened: [K] per class, sum of ‖Qᵀ(h − μ_y)‖² with Q of `variability.whitener`; or None.
    dropped: [] int32, examples left out inside jit because their label was outside [0, K).
    conventions: (global_mean, between) of that Q; None without `whitened`.
  """

  count: Array
  placed: Array
  ncc_wrong: Array
  classifier_wrong: Array | None
  mismatch: Array | None
  own_distance: Array
  nearest_distance: Array
  feature_norm: Array
  whitened: Array | None
  dropped: Array
  conventions: tuple[str, str] | None = dataclasses.field(metadata={"static": True})

  @classmethod
  def empty(
    cls,
    moments: ClassMoments | None = None,
    head: Head | None = None,
    projection: Whitener | None = None,
  ) -> "Decisions":
    """No example yet: the neutral element of what decide(..., moments, head) returns.

    `projection` as for `decide`, if it is not the default.
    """
    zero = jnp.zeros((), jnp.int32)
    sum_ = jnp.zeros((), inputs.float_dtype())
    streaming = moments is not None and moments.scatter is None and moments.decomposable
    return cls(
      count=zero,
      placed=zero,
      ncc_wrong=zero,
      classifier_wrong=None if head is None else zero,
      mismatch=None if head is None else zero,
      own_distance=sum_,
      nearest_distance=sum_,
      feature_norm=sum_,
      whitened=jnp.zeros(moments.num_classes, sum_.dtype) if streaming else None,
      dropped=zero,
      conventions=_conventions(projection) if streaming else None,
    )

  def merge(self, other: "Decisions") -> "Decisions":
    """Both sets of examples together.

    Raises:
      ValueError: only one side was asked about a head, or keeps `whitened`, or of another Q.
    """
    if jax.tree.structure(self) != jax.tree.structure(other):
      raise ValueError(
        "decisions can be merged when both were made with a head, or both without, and about "
        f"moments of the same kind; got {self._answers()} and {other._answers()}"
      )
    return jax.tree.map(jnp.add, self, other)

  def _answers(self) -> str:
    optional = ("classifier_wrong", "mismatch", "whitened")
    answers = [name for name in optional if getattr(self, name) is not None]
    if self.conventions is not None:
      answers.append("conventions {}, {}".format(*self.conventions))
    return ", ".join(answers) or "neither"

  @property
  def number(self) -> Array:
    """[] `count` as a float; nan if a feature or a mean was not finite."""
    finite = jnp.isfinite(self.feature_norm + self.own_distance)
    return jnp.where(finite, self.count.astype(self.feature_norm.dtype), jnp.nan)

  def shares(self) -> dict[str, Array]:
    """NC4 by key, and the mean norm of the features; nan without examples.

    nan too where a feature or a class mean is not finite: nothing is nearest then.
    """
    count = self.number
    values = {"nc4/ncc_error": self.ncc_wrong / count}
    if self.mismatch is not None:
      values["nc4/ncc_mismatch"] = self.mismatch / count
      values["error/classifier"] = self.classifier_wrong / count
    values["norm/features"] = self.feature_norm / count
    return values


def decide(
  features,
  labels,
  moments: ClassMoments,
  head: Head | None = None,
  mask=None,
  *,
  projection: Whitener | None = None,
  radii: Array | None = None,
) -> Decisions:
  """What the class means of `moments`, and the head, decide about each example.

      nearest(h) = argmin_k ‖h − μ_k‖, present classes only     classifier(h) = argmax_k w_k·h + b_k

  The first of equal candidates wins. An example well within its class, as nearly all are near
  collapse, needs no scores: `certainty.radii` says how far that is. The same call serves train
  features about train means and test features about train means.

  Args:
    features: [N, D] numbers, as for `accumulate`; they may lie spread over devices.
    labels: [N] integers in [0, K).
    moments: final class moments; its means are the candidates.
    head: the linear classifier, or None.
    mask: [N] bool, True for the examples that count.
    projection: `variability.whitener(moments)`. Used only when moments.scatter is None; computed
      here by default, so pass it when many batches are decided about the same moments, or for
      another Σ_B than the default of `measure`.
    radii: [K], `certainty.radii(moments, head)`, likewise; computed here for large batches only.

  Raises: as `accumulate`; ValueError also for a head whose shapes do not fit.
  """
  inputs.check_moments(moments)
  given = (features, labels, mask, head)
  features, labels, mask = inputs.check_examples(*given[:3], moments.num_classes, moments.dim)
  columns = moments.columns
  head = fitting_head(head, moments)
  if moments.scatter is not None or not moments.decomposable:
    projection = None
  elif projection is None:
    projection = whitener(moments)
  if radii is None and certainty.pays(features.shape[0], moments.num_classes, moments.dim):
    radii = certainty.radii(moments, head)
  about = (moments, head, projection, radii)
  examples, place, kernel = (features, labels, mask), None, _decide
  if columns is not None:
    examples, by_rows = columns.arrange(*examples)
    place, kernel = columns.place, functools.partial(_decide_split, by_rows=by_rows)
  elif (split := sharding.split_of(features)) is not None:
    return inputs.finished(_decide_sharded(*examples, about, *split), given)
  if inputs.is_traced(examples, about):
    return kernel(*examples, None, about)

  def first(_, *part):
    return kernel(*part, about)

  def another(seen, *part):
    return _sum(seen, kernel(*part, about))

  steps = first, another
  return inputs.finished(
    sharding.fold_slices(steps, None, examples, moments.num_classes, place), given
  )


def nearest_class(features, moments: ClassMoments) -> Array:
  """[N] int32, the present class whose mean is nearest to each example; 0 if there is none."""
  inputs.check_moments(moments)
  given, features = features, inputs.as_features(features, "features", moments.dim)
  return inputs.finished(_nearest_of(features, moments), given)


def _nearest_of(features, moments: ClassMoments) -> Array:
  columns = moments.columns
  if columns is not None:
    (features, *_), by_rows = columns.arrange(features, None, None)
    parts = sharding.host_slices((features, None, None), moments.num_classes, columns.place)
    nearest = [_nearest_split(part, moments, by_rows)[skip:] for (part, *_), skip in parts]
    return nearest[0] if len(nearest) == 1 else jnp.concatenate(nearest)
  if inputs.is_traced(features, moments):
    return _nearest(features, moments)
  split = sharding.split_of(features)
  if split is None:
    parts = sharding.host_slices((features,), moments.num_classes)
    nearest = [_nearest(part, moments)[skip:] for (part,), skip in parts]
    return nearest[0] if len(nearest) == 1 else jnp.concatenate(nearest)
  return _nearest_sharded(features, moments, *split)


@jax.jit
def _nearest(features: Array, moments: ClassMoments) -> Array:
  candidates = Candidates.of(moments)
  return sharding.map_chunks(lambda h: candidates.chosen_by(h)[:, 0], features)


@jax.jit(static_argnums=(2, 3))
def _nearest_sharded(features: Array, moments: ClassMoments, mesh, axes) -> Array:
  rows, whole = PartitionSpec(axes), PartitionSpec()
  local = jax.shard_map(
    _nearest, mesh=mesh, in_specs=(rows, whole), out_specs=rows, check_vma=False
  )
  return local(features, moments)


@jax.jit(static_argnums=2)
def _nearest_split(features: Array, moments: ClassMoments, by_rows: bool) -> Array:
  """Of features that lie by rows, in their place; else whole on every device."""
  columns = moments.columns

  def local(features, candidates):
    def nearest(h):
      if not by_rows:
        return candidates.chosen_by(h, columns)[:, 0]
      (all_,) = columns.exchange(h)
      of_all = candidates.chosen_by(all_, columns)[:, 0]
      return lax.dynamic_slice_in_dim(of_all, columns.index() * len(h), len(h))

    return sharding.map_chunks(nearest, features, columns.rows_of_chunk(features, by_rows))

  where, *_ = columns.examples(by_rows)
  out = columns.rows if by_rows else PartitionSpec()
  candidates = Candidates.of(moments)
  return columns.map(local, (where, candidates.specs(columns)), out)(features, candidates)


def _decisions(features, labels, mask, skip, about) -> Decisions:
  moments, head, projection, radii = about
  candidates, seen = Candidates.of(moments, head), Decisions.empty(moments, head, projection)
  return _add_about(seen, features, labels, mask, skip, (moments, candidates, projection, radii))


def _add_about(seen: Decisions, features, labels, mask, skip, about, by_rows=False) -> Decisions:
  """Of split moments, what one device does, in its columns; sums over D are summed over devices."""
  moments, candidates, projection, radii = about
  columns, present = moments.columns, moments.count > 0
  total = (lambda x: x) if columns is None else columns.total
  guessed = functools.partial(candidates.guessed, columns=columns)

  def step(state: Decisions, chunk):
    h, y, keep = chunk
    if mask is not None:  # padding may hold anything, nan too
      h = jnp.where(keep[:, None], h, 0)
    h = h.astype(moments.mean.dtype)
    inside = (y >= 0) & (y < moments.num_classes)
    dropped = jnp.sum(keep & ~inside, dtype=jnp.int32)
    keep &= inside
    y = jnp.where(keep, y, 0)
    placed = keep & present[y]
    own = jnp.where(keep[:, None], _difference(h, y, moments), 0)
    own_distance = total(squared_norms(own))
    if radii is None:
      choices, tied = guessed(h)
    else:
      certain = ~keep | (own_distance < radii[y] ** 2)
      rows = -(-h.shape[0] // 8)
      choices, tied = certainty.where_needed(guessed, h, y, certain, rows)
    guess, *choice = candidates.settled(h, choices, tied, columns).T
    closest = lax.cond(
      jnp.any(guess != y),
      # Scores round: the label's own mean may win by less than their precision.
      lambda: jnp.minimum(total(squared_norms(_difference(h, guess, moments))), own_distance),
      lambda: own_distance,
    )
    classifier_wrong = mismatch = whitened = None
    if choice:
      (choice,) = choice
      classifier_wrong = jnp.sum(keep & (choice != y), dtype=jnp.int32)
      mismatch = jnp.sum(keep & (choice != guess), dtype=jnp.int32)
    if projection is not None:
      white = total(jnp.matmul(own, projection.matrix, precision=HIGHEST))
      white = squared_norms(jnp.where(placed[:, None], white, 0))
      whitened = jax.ops.segment_sum(white, y, moments.num_classes)
    new = Decisions(
      count=jnp.sum(keep, dtype=jnp.int32),
      placed=jnp.sum(placed, dtype=jnp.int32),
      ncc_wrong=jnp.sum(keep & ((guess != y) | ~placed), dtype=jnp.int32),
      classifier_wrong=classifier_wrong,
      mismatch=mismatch,
      own_distance=jnp.sum(jnp.where(placed, own_distance, 0)),
      nearest_distance=jnp.sum(jnp.where(placed, closest, 0)),
      feature_norm=jnp.sum(jnp.where(keep, jnp.sqrt(total(squared_norms(h))), 0)),
      whitened=whitened,
      dropped=dropped,
      conventions=state.conventions,
    )
    return jax.tree.map(jnp.add, state, new), None

  if columns is not None:
    return columns.scan(step, seen, features, labels, mask, skip, by_rows)
  if features.shape[0] == 0:
    return seen
  return sharding.scan_chunks(step, seen, features, labels, mask, skip)


_decide = jax.jit(_decisions)
_sum = jax.jit(Decisions.merge)


@jax.jit(static_argnames="by_rows")
def _decide_split(features, labels, mask, skip, about, by_rows) -> Decisions:
  moments, head, projection, radii = about
  columns, whole, seen = moments.columns, PartitionSpec(), Decisions.empty(*about[:3])
  candidates = Candidates.of(moments, head)
  about = (moments, candidates, projection, radii)
  specs = (columns.specs(moments), candidates.specs(columns), columns.rows, whole)
  local = columns.map(
    functools.partial(_add_about, by_rows=by_rows),
    (whole, *columns.examples(by_rows), whole, specs),
    whole,
  )
  return local(seen, features, labels, mask, skip, about)


@jax.jit(static_argnums=(4, 5))
def _decide_sharded(features, labels, mask, about, mesh, axes) -> Decisions:
  rows, whole = PartitionSpec(axes), PartitionSpec()

  def local(features, labels, mask, about):
    return lax.psum(_decisions(features, labels, mask, None, about), axes)

  specs = (rows, rows, rows, whole)
  local = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False)
  return local(features, labels, mask, about)


def _conventions(projection: Whitener | None) -> tuple[str, str]:
  return ("classes", "classes") if projection is None else projection.conventions


def _difference(features: Array, labels: Array, moments: ClassMoments) -> Array:
  """[B, D] h − μ_y through the reference, which is exact where h − μ_y would round."""
  return (features - moments.reference[labels]) - moments.mean[labels]
