"""Streaming through files gives what the library gives for arrays."""

import numpy as np
import pytest

import nc_jax as nc
from nc_jax.errors import UserError
from nc_jax.exported import files, passes
from tests.exported import sets
from tests.exported.sets import HEAD, TEST, TRAIN

K = len(HEAD["weight"])
# Where passes differ; for the defaults tests/measure_test.py compares with the float64 oracle.
OPTIONS = [
  ({}, {"scatter": False, "global_mean": "samples", "between": "samples"}),
  (HEAD, {"within": "classes", "norm_ddof": 0, "pair_ddof": 1}),
]


@pytest.mark.parametrize(("head", "options"), OPTIONS, ids=["no scatter, no head", "classes"])
def test_streaming_gives_what_the_library_gives_at_once(tmp_path, head, options):
  paths = []
  for i, rows in enumerate((slice(0, 10), slice(10, 150), slice(150, None))):
    shard = {name: array[rows] for name, array in TRAIN.items()}
    paths.append(str(sets.saved(tmp_path / f"{i}.npz", **shard)))
  request = passes.Request(
    num_classes=K, head=nc.Head(**head) if head else None, rows=60, **options
  )
  measured = passes.report(files.read(paths), request)
  expected = nc.report(**TRAIN, **head, num_classes=K, **options)
  assert list(measured.values) == [key for key in nc.METRICS if key in expected]
  # Chunks are summed in another order; the tolerance is a hundred float32 roundings.
  assert measured.values == pytest.approx(expected, rel=1e-5, abs=1e-6)

  test = files.read([str(sets.saved(tmp_path / "test.npz", **TEST))])
  collapse = passes.test_collapse(measured, test, request)
  options = {name: value for name, value in options.items() if not name.endswith("ddof")}
  expected = nc.test_collapse(*TRAIN.values(), *TEST.values(), **head, num_classes=K, **options)
  assert collapse == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_nan_and_inf_are_counted_and_placed(tmp_path):
  first, second = sets.without_head(), sets.without_head(10, labels=np.full(10, 3))
  first["labels"][[2, 20]] = 1
  first["features"][2, 0], first["features"][20, 5] = np.nan, -np.inf
  second["features"] = second["features"].astype(float)
  second["features"][9, 1] = 1e20  # its square is inf as float32
  paths = [sets.saved(tmp_path / "a.npz", **first), sets.saved(tmp_path / "b.npz", **second)]
  with pytest.raises(UserError) as caught:
    passes.report(files.read(map(str, paths)), passes.Request(num_classes=sets.K, rows=4))
  assert str(caught.value) == (
    "features must be finite, and so must their squares in float32; 3 of 33 examples hold nan, inf "
    f"or too large a number: rows 2, 20 of {tmp_path}/a.npz and rows of 1 more files; classes "
    "(examples) 1 (2), 3 (1)."
  )


def test_what_does_not_fit_into_memory_is_refused_before_it_is_tried():
  with pytest.raises(UserError, match="; --no_scatter needs less."):
    passes.Request(num_classes=2).check_memory(10**6)
  with pytest.raises(UserError, match=r"has \d+\.$"):
    passes.Request(num_classes=10**6, scatter=False).check_memory(10**6)
