"""Measured values for people, as tables beside their limits, and for programs, as JSON."""

import json
import math
import textwrap
from typing import NamedTuple

import numpy as np

import nc_jax as nc
from nc_jax.errors import printable
from nc_jax.exported.files import FeatureSet, in_float64
from nc_jax.exported.passes import Request
from nc_jax.metrics import inputs

_GROUPS = {
  "NC0  classifier rows": ("nc0/",),
  "NC1  variability collapse": ("nc1/",),
  "NC2  simplex ETF": ("nc2/",),
  "NC3  self-duality": ("nc3/",),
  "NC4  nearest class mean": ("nc4/", "error/"),
  "Ranks": ("rank/",),
  "Sizes": ("trace/", "norm/", "classes/"),
}
_TEST_GROUPS = {
  "Strong test collapse": ("strong/", "shift/"),
  "Weak test collapse": ("weak/",),
  "Test decisions": ("test/",),
  "Train set, to compare": ("train/",),
}
_OF_KNOWN_CLASSES = ("strong/second_moment", "weak/second_moment", "shift/means")


class Results(NamedTuple):
  """All there is to say about one measurement."""

  sets: list[FeatureSet]  # train, and test if there is one
  request: Request
  values: dict[str, float]  # what nc.report gives
  collapse: dict[str, float]  # what nc.test_collapse gives; empty without a test set


def to_text(results: Results) -> str:
  """Tables of what was measured, and why the rest of METRICS was not."""
  sets, request, values, collapse = results
  lines = [f"{name:<5}  {describe(examples)}" for name, examples in _named(sets).items()]
  if strangers := _strangers(sets):
    said = f"{strangers} of {sets[1].size} test examples are of classes without train examples: "
    said += f"left out of {', '.join(_OF_KNOWN_CLASSES)}, and errors in test/ncc_error"
    lines += textwrap.wrap(said, 100)
  classes = int(values["classes/present"])
  head = "no linear head"
  if request.head is not None:
    head = "linear head " + ("without bias" if request.head.bias is None else "with bias")
  lines.append(f"K = {request.num_classes} classes, C = {classes} of them with examples; {head}")
  if classes < 2:
    lines.append("Fewer than two classes have examples: nothing to compare.")
  lines.append(", ".join(f"{name}={value}" for name, value in _settings(request).items()))
  lines += _rounded(sets)
  if unused := _unused_arrays(sets):
    lines.append("arrays not used: " + ", ".join(unused))
  lines += _table(_GROUPS, values, classes)
  if collapse:
    lines += _table(_TEST_GROUPS, collapse, classes)
  absent = {key: nc.METRICS[key].needs for key in nc.METRICS if key not in values | collapse}
  for need, lacking in (("head", "no `weight`"), ("scatter", "--no_scatter")):
    keys = [k for k, needs in absent.items() if need in needs and (collapse or "test" not in needs)]
    if keys:
      lines += ["", *textwrap.wrap(f"Not measured ({lacking}): {', '.join(keys)}", 100)]
  return "\n".join(lines)


def to_json(results: Results) -> str:
  """The same as strict JSON, in which nan and inf are strings, as Python's float() reads them."""
  sets, request, values, collapse = results
  classes = int(values["classes/present"])
  limits = {key: _limit_of(key, classes) for key in (*values, *collapse)}
  content = {name: _summary(examples) for name, examples in _named(sets).items()}
  if "test" in content:
    content["test"]["without_train_class"] = _strangers(sets)
  content |= {
    "num_classes": request.num_classes,
    "head": request.head is not None,
    "bias": request.head is not None and request.head.bias is not None,
    "conventions": _settings(request),
    "unused_arrays": _unused_arrays(sets),
    "metrics": {key: _number(value) for key, value in values.items()},
    "test_collapse": {key: _number(value) for key, value in collapse.items()},
    "at_collapse": {key: limit for key, limit in limits.items() if limit is not None},
  }
  return json.dumps(content, indent=2, allow_nan=False)


def describe(examples: FeatureSet) -> str:
  """Its files and its size."""
  paths = [printable(str(shard.path)) for shard in examples.shards]
  files = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
  return f"{files}: N = {examples.size} examples, D = {examples.dim} features"


def _named(sets: list[FeatureSet]) -> dict[str, FeatureSet]:
  return dict(zip(("train", "test"), sets, strict=False))


def _settings(request: Request) -> dict[str, object]:
  dtype = inputs.float_dtype().name
  return {**request.conventions, "scatter": request.scatter, "dtype": dtype}


def _rounded(sets: list[FeatureSet]) -> list[str]:
  """A line for each set with files that hold more digits than are computed with."""
  dtype = inputs.float_dtype()
  lines = []
  for name, examples in _named(sets).items():
    wide = [x.name for x in examples.dtypes if x.kind == "f" and x.itemsize > dtype.itemsize]
    if wide:
      hint = in_float64("; --float64 keeps their precision")
      lines.append(f"{name} features are {' and '.join(wide)}, measured in {dtype}{hint}")
  return lines


def _strangers(sets: list[FeatureSet]) -> int:
  """How many test examples are of classes that the train set lacks; 0 without a test set."""
  known = list(sets[0].classes)
  shards = [shard for examples in sets[1:] for shard in examples.shards]
  return sum(int(np.sum(~np.isin(shard.labels, known))) for shard in shards)


def _unused_arrays(sets: list[FeatureSet]) -> list[str]:
  return list(dict.fromkeys(name for examples in sets for name in examples.unused))


def _table(groups: dict[str, tuple[str, ...]], values: dict[str, float], classes: int) -> list[str]:
  """Lines with value, limit at collapse and formula, under the names of their groups."""
  lines = []
  for title, prefixes in groups.items():
    keys = [key for key in values if key.startswith(prefixes)]
    if keys:
      lines += ["", f"{title:<30}{'value':>12}{'at collapse':>13}"]
    for key in keys:
      limit = _limit_of(key, classes)
      limit = "" if limit is None else f"{limit:.5g}"
      lines.append(f"  {key:<28}{values[key]:>12.5g}{limit:>13}   {_formula_of(key)}".rstrip())
  return lines


def _formula_of(key: str) -> str:
  """Short: the title of a group says for which examples strong/nc1/pinv is nc1/pinv."""
  base = key.partition("/")[2]
  return nc.METRICS[base if base in nc.METRICS else key].formula


def _limit_of(key: str, classes: int) -> float | None:
  """Its value at collapse; None where there is no such thing."""
  limit = nc.METRICS[key].at_collapse
  return None if limit is None or classes < 2 else float(limit(classes))


def _summary(examples: FeatureSet) -> dict[str, object]:
  files = [str(shard.path) for shard in examples.shards]
  dtype = ", ".join(dict.fromkeys(dtype.name for dtype in examples.dtypes))
  return {"files": files, "examples": examples.size, "dim": examples.dim, "dtype": dtype}


def _number(value: float) -> float | str:
  return value if math.isfinite(value) else str(value)
