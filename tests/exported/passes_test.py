"""Streaming through files gives what the library gives for arrays."""

import os

import jax
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
    f"or too large a number: rows 2, 20 of {tmp_path}/a.npz, rows 9 of {tmp_path}/b.npz; classes "
    "(examples) 1 (2), 3 (1)."
  )
  refuse([paths[1]], rf"rows 9 of {paths[1]}; .* 3 \(1\); --float64 takes such numbers\.$")
  many = [sets.saved(tmp_path / f"{i}.npz", **first) for i in range(5)]
  refuse(many, rf"{many[1]}, rows 2, 20 of {many[2]} and rows of 2 more files; .* 1 \(10\)\.$")


def refuse(paths, pattern):
  with pytest.raises(UserError, match=pattern):
    passes.report(files.read(map(str, paths)), passes.Request(num_classes=sets.K))


@pytest.mark.parametrize("scale", [1e-60, 1e-19, 1e-13, 3e18])
def test_features_whose_squares_leave_the_range_are_refused_and_float64_takes_them(tmp_path, scale):
  features = sets.arrays()["features"].astype(float)
  made = sets.without_head(features=scale * features)
  large = "large: sums of .* divide them by their largest number first"
  small = "small: squares of .* multiply them by one number first"
  pattern = f"features are too {large if scale > 1 else small}, or give --float64.$"
  refuse([sets.saved(tmp_path / "a.npz", **made)], pattern)
  with jax.enable_x64(True):
    measured = passes.report(files.read([tmp_path / "a.npz"]), passes.Request(num_classes=sets.K))
    expected = nc.report(features, made["labels"], num_classes=sets.K)
  for key in ("nc1/pinv", "nc1/cdnv", "nc2/etf_means"):
    assert measured.values[key] == pytest.approx(expected[key], rel=1e-9)


@pytest.mark.parametrize("scale", [1e-12, 1.0])
def test_small_variances_of_the_smallest_features_count(tmp_path, scale):
  labels = np.arange(200) % sets.K
  rng = np.random.default_rng(0)
  features = np.eye(sets.K)[labels] + 1e-6 * rng.normal(size=(200, sets.K))
  path = sets.saved(tmp_path / "a.npz", features=(scale * features).astype("f"), labels=labels)
  measured = passes.report(files.read([path]), passes.Request(num_classes=sets.K))
  # Σ_W is 1e-12 I and Σ_B⁺ has the trace 4 (K − 1), up to what float32 rounds off.
  assert measured.values["nc1/pinv"] == pytest.approx(1e-12 * (sets.K - 1), rel=0.1)


def test_features_that_are_all_zero_are_not_too_small(tmp_path):
  path = sets.saved(tmp_path / "a.npz", **sets.without_head(features=np.zeros((sets.N, sets.D))))
  values = passes.report(files.read([path]), passes.Request(num_classes=sets.K)).values
  assert values["trace/within"] == 0


@pytest.mark.parametrize("during", ["train moments", "train decisions"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, during):
  for name, array in sets.without_head().items():
    np.save(tmp_path / f"{name}.npy", array)
  path = tmp_path / "features.npy"
  shards = [str(path), str(sets.saved(tmp_path / "a.npz", **sets.without_head()))]

  def watch(title, batches, total):
    for batch in batches:
      yield batch
      if title == during:  # the last shard is being read; the first may be read once more
        os.utime(path, ns=(0, 0))

  request = passes.Request(num_classes=sets.K, rows=sets.N + 1, watch=watch)
  if during == "train decisions":
    shards.reverse()
  with pytest.raises(UserError, match=rf"{path} changed while it was read\.$"):
    passes.report(files.read(shards), request)


@pytest.mark.parametrize(("name", "most"), [("norm_ddof", 3), ("pair_ddof", 11)])
def test_a_ddof_leaves_something_to_divide_by(name, most):
  """4 classes have 12 ordered pairs."""
  features = np.random.default_rng(0).normal(size=(20, 3))
  values = nc.report(features, np.arange(20) % 4, num_classes=5, **{name: most})
  assert np.isfinite([values["nc2/equinorm_means"], values["nc2/angle_std_means"]]).all()
  passes.Request(num_classes=5, **{name: most}).check_ddof(4)
  too_much = passes.Request(num_classes=5, **{name: most + 1})
  with pytest.raises(UserError, match=rf"--{name}={most + 1} must be below .*, {most + 1}\.$"):
    too_much.check_ddof(4)
  too_much.check_ddof(1)  # where all is nan


def test_what_does_not_fit_into_memory_is_refused_before_it_is_tried():
  with pytest.raises(UserError, match="; --no_scatter needs less."):
    passes.Request(num_classes=2).check_memory(10**6)
  with pytest.raises(UserError, match=r"has \d+\.$"):
    passes.Request(num_classes=10**6, scatter=False).check_memory(10**6)
