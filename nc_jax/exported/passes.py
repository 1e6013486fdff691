"""The passes over files that nc.report and nc.test_collapse make over arrays in memory.

Same calls, same order, batch by batch: the files may be larger than memory, the values are equal.
"""

import dataclasses
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import nc_jax as nc
from nc_jax.errors import UserError
from nc_jax.exported.batches import Batch, batches_of
from nc_jax.exported.files import FeatureSet, in_float64, least_square, some
from nc_jax.metrics import inputs, variability
from nc_jax.metrics.accumulation import within_covariance
from nc_jax.npz import machine_memory, opened

_BATCH_BYTES = 1 << 26  # of features; enough to keep disk and device busy
_FILES = 3  # whose rows are listed in an error; the rest is counted


def _untold(title: str, batches: Iterable[Batch], total: int) -> Iterable[Batch]:
  return batches


@dataclasses.dataclass(frozen=True)
class Request:
  """What is asked about the features.

  Attributes:
    num_classes: K.
    head: the linear classifier, or None.
    scatter: False for features too wide for a [D, D] array.
    global_mean, within, between, norm_ddof, pair_ddof: as for `nc.measure`.
    rows: examples in a batch; None chooses.
    watch: (title, batches, number of examples) -> batches; sees every pass go by.
  """

  num_classes: int
  head: nc.Head | None = None
  scatter: bool = True
  global_mean: str = "classes"
  within: str = "samples"
  between: str = "classes"
  norm_ddof: int = 1
  pair_ddof: int = 0
  rows: int | None = None
  watch: Callable[[str, Iterable[Batch], int], Iterable[Batch]] = _untold

  @property
  def centring(self) -> dict[str, str]:
    return {"global_mean": self.global_mean, "between": self.between}

  @property
  def conventions(self) -> dict[str, str | int]:
    ddof = {"norm_ddof": self.norm_ddof, "pair_ddof": self.pair_ddof}
    return {"global_mean": self.global_mean, "within": self.within, "between": self.between, **ddof}

  @property
  def needs_second_pass(self) -> bool:
    """True where the moments alone do not give nc1/pinv."""
    return not self.scatter or self.within == "classes"

  def check_memory(self, dim: int):
    """Raises UserError if what is kept between batches cannot fit into this machine's memory."""
    size = inputs.float_dtype().itemsize
    means, scatter = 4 * self.num_classes * dim * size, 3 * dim * dim * size * self.scatter
    memory = machine_memory()
    if means + scatter > memory:
      hint = "; --no_scatter needs less" if scatter > means else ""
      raise UserError(
        f"K = {self.num_classes} classes of D = {dim} need {(means + scatter) / 2**30:.0f} GiB of "
        f"memory; this machine has {memory / 2**30:.0f}{hint}."
      )

  def check_ddof(self, classes: int):
    """Raises UserError if nothing is left to divide by with C classes that have examples."""
    pairs = classes * (classes - 1)
    for name, count, what in (
      ("norm_ddof", classes, "classes with examples"),
      ("pair_ddof", pairs, "ordered pairs of classes with examples"),
    ):
      value = getattr(self, name)
      if classes > 1 and value >= count:  # with fewer classes there is nothing to measure anyway
        raise UserError(f"--{name}={value} must be below the number of {what}, {count}.")


@dataclasses.dataclass(frozen=True)
class Measured:
  """Values in the order of METRICS, the moments behind them, and Σ_W [D, D] if there is one."""

  values: dict[str, float]
  moments: nc.ClassMoments
  covariance: Array | None


def report(examples: FeatureSet, request: Request) -> Measured:
  """What nc.report gives for the examples of the files.

  Raises:
    UserError: features are nan or inf, or their squares are, or all their squares underflow.
  """
  moments = _first_pass("train moments", examples, request)
  batches = _batches("train decisions", examples, request)
  decisions, covariance = _second_pass(batches, moments, request.head, request)
  values = nc.measure(
    moments, request.head, decisions, ranks=request.scatter, within_covariance=covariance,
    **request.conventions,
  )  # fmt: skip
  if covariance is None and request.scatter:
    covariance = moments.scatter / max(examples.size, 1)
  return Measured(_floats(values), moments, covariance)


def test_collapse(train: Measured, examples: FeatureSet, request: Request) -> dict[str, float]:
  """What nc.test_collapse gives for a measured train set and the test examples of the files.

  Raises:
    UserError: features are nan or inf, or their squares are, or all their squares underflow.
  """
  own = _first_pass("test moments", examples, request)
  decisions, nearest = None, []
  weak = _empty(examples, request)
  for batch in _batches("test decisions", examples, request):
    jax.block_until_ready(weak)  # one batch under way, and the next one being read
    arrays = batch.features, batch.labels
    decided = nc.decide(*arrays, train.moments, request.head, batch.mask)
    decisions = decided if decisions is None else decisions.merge(decided)
    guess = nc.nearest_class(batch.features, train.moments)
    weak = nc.accumulate(weak, batch.features, guess, batch.mask, donate=True)
    nearest.append(np.asarray(guess)[: batch.size])

  values = {f"train/{key}": train.values[key] for key in train.values if key[:4] == "nc1/"}
  for name, moments, labels in (("strong", own, None), ("weak", weak, np.concatenate(nearest))):
    decided = covariance = None
    if request.needs_second_pass:
      batches = _batches(f"{name} test collapse", examples, request)
      decided, covariance = _second_pass(_relabelled(batches, labels), moments, None, request)
    measured = nc.measure(
      moments, None, decided, within_covariance=covariance, **request.conventions
    )
    values |= {f"{name}/{key}": measured[key] for key in measured if key[:4] == "nc1/"}
  scale = variability.trace_between(train.moments, **request.centring)
  values["train/second_moment"] = variability.trace_within(train.moments) / scale
  values |= nc.collapse_about(decisions, train.moments, own, **request.centring)
  return _floats({key: values[key] for key in nc.METRICS if key in values})


def _first_pass(title: str, examples: FeatureSet, request: Request) -> nc.ClassMoments:
  moments, bad, largest = _empty(examples, request), [], 0.0
  for batch in _batches(title, examples, request):
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
      squares = np.einsum("nd,nd->n", batch.features, batch.features)
    wrong = ~np.isfinite(squares)
    largest = max(largest, float(np.max(squares)))
    if wrong.any():  # from here on only more of them are looked for
      bad.append(batch.start + np.flatnonzero(wrong))
    elif not bad:
      jax.block_until_ready(moments)
      moments = nc.accumulate(moments, batch.features, batch.labels, batch.mask, donate=True)
  if bad:
    raise UserError(_not_finite(examples, np.concatenate(bad)))
  _check_range(title, examples, moments, largest)
  return moments


def _check_range(title: str, examples: FeatureSet, moments: nc.ClassMoments, largest: float):
  """Raises UserError where sums of squares overflow, or squares underflow; largest is of ‖h‖²."""
  dtype = inputs.float_dtype()
  if not np.isfinite([jnp.sum(moments.spread), jnp.sum(moments.mean**2)]).all():
    raise UserError(
      f"features are too large: sums of their squares are no longer finite in {dtype} ({title}); "
      f"divide them by their largest number first{in_float64(', or give --float64')}."
    )
  if largest < least_square(dtype) and any(opened(s.features).any() for s in examples.shards):
    raise UserError(
      f"features are too small: squares of their differences underflow in {dtype} ({title}); "
      f"multiply them by one number first{in_float64(', or give --float64')}."
    )


def _not_finite(examples: FeatureSet, bad: np.ndarray) -> str:
  """How many, in which rows and classes; `bad` holds places in the set."""
  ends = np.cumsum([len(shard.labels) for shard in examples.shards])
  owner = np.searchsorted(ends, bad, side="right")
  places = []
  for i in np.unique(owner).tolist():
    shard = examples.shards[i]
    places.append((shard, bad[owner == i] - (ends[i] - len(shard.labels))))
  named = ", ".join(f"rows {some(rows)} of {shard.path}" for shard, rows in places[:_FILES])
  others = len(places) - _FILES
  more = f" and rows of {others} more files" if others > 0 else ""
  numbers = (x for shard, rows in places for x in map(opened(shard.features).__getitem__, rows))
  hint = in_float64("; --float64 takes such numbers", numbers)
  labels = np.concatenate([shard.labels.astype(np.int64) for shard in examples.shards])[bad]
  classes = [f"{k} ({n})" for k, n in zip(*np.unique(labels, return_counts=True), strict=True)]
  return (
    f"features must be finite, and so must their squares in {inputs.float_dtype()}; {len(bad)} of "
    f"{examples.size} examples hold nan, inf or too large a number: {named}{more}; classes "
    f"(examples) {some(classes)}{hint}."
  )


def _second_pass(
  batches: Iterable[Batch], moments: nc.ClassMoments, head: nc.Head | None, request: Request
) -> tuple[nc.Decisions, Array | None]:
  """Decisions about the moments, and Σ_W where the pooled scatter does not give it."""
  projection = None if request.scatter else variability.whitener(moments, **request.centring)
  by_class = request.scatter and request.within == "classes"
  decisions, covariance = nc.Decisions.empty(moments, head, projection), None
  for batch in batches:
    jax.block_until_ready(decisions)
    arrays = batch.features, batch.labels
    decided = nc.decide(*arrays, moments, head, batch.mask, projection=projection)
    decisions = decisions.merge(decided)
    if by_class:
      part = within_covariance(*arrays, moments, batch.mask)
      covariance = part if covariance is None else covariance + part
  return decisions, covariance


def _batches(title: str, examples: FeatureSet, request: Request) -> Iterable[Batch]:
  dtype = inputs.float_dtype()
  rows = request.rows or max(1024, _BATCH_BYTES // (examples.dim * dtype.itemsize))
  batches = batches_of(examples, min(rows, examples.size), dtype)
  return request.watch(title, batches, examples.size)


def _relabelled(batches: Iterable[Batch], labels: np.ndarray | None) -> Iterable[Batch]:
  """The same examples with other labels, [N]; None keeps their own."""
  for batch in batches:
    if labels is not None:
      batch.labels[: batch.size] = labels[batch.start : batch.start + batch.size]
    yield batch


def _empty(examples: FeatureSet, request: Request) -> nc.ClassMoments:
  return nc.ClassMoments.empty(request.num_classes, examples.dim, scatter=request.scatter)


def _floats(values: dict) -> dict[str, float]:
  on_host = jax.device_get(values)  # whose keys come back sorted
  return {key: float(on_host[key]) for key in values}
