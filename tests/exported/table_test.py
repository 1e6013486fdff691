"""Measured values as text and as JSON; the numbers here are made up."""

import json
import pathlib

import jax
import numpy as np
import pytest

import nc_jax as nc
from nc_jax.exported import files, passes, table
from tests.exported import sets

TEST_KEYS = [key for key, metric in nc.METRICS.items() if "test" in metric.needs]
COLLAPSE = {key: 1 + i / 100 for i, key in enumerate(TEST_KEYS)}
VALUES = {key: 2 + i / 100 for i, key in enumerate(nc.METRICS) if key not in COLLAPSE}
VALUES["classes/present"] = 3.0
HEAD = nc.Head(np.zeros((sets.K, sets.D)), np.zeros(sets.K))


def set_of(*names, unused=()):
  made = sets.arrays()
  shards = [files.Shard(pathlib.Path(name), made["features"], made["labels"]) for name in names]
  return files.FeatureSet(shards, {}, list(unused))


SETS = [set_of("a.npz", "b.npz", unused=["epoch"]), set_of("test.npz", unused=["x", "epoch"])]


def rows_of(text):
  """{key: the rest of its line}."""
  rows = [line.split(maxsplit=1) for line in text.splitlines() if line.startswith("  ")]
  return dict(rows)


def test_the_table_has_every_metric_beside_its_limit():
  request = passes.Request(num_classes=sets.K, head=HEAD)
  text = table.to_text(table.Results(SETS, request, VALUES, COLLAPSE))
  assert text.splitlines()[:5] == [
    f"train  a.npz and 1 more: N = {2 * sets.N} examples, D = {sets.D} features",
    f"test   test.npz: N = {sets.N} examples, D = {sets.D} features",
    f"K = {sets.K} classes, C = 3 of them with examples; linear head with bias",
    "global_mean=classes, within=samples, between=classes, norm_ddof=1, pair_ddof=0, scatter=True, "
    "dtype=float32",
    "arrays not used: epoch, x",
  ]
  rows = rows_of(text)
  assert set(rows) == set(nc.METRICS)
  for key, metric in nc.METRICS.items():
    value, *rest = rows[key].split()
    assert float(value) == pytest.approx((VALUES | COLLAPSE)[key], rel=1e-4)
    if metric.at_collapse is not None:
      assert float(rest[0]) == pytest.approx(metric.at_collapse(3), rel=1e-4)
    if "test" not in metric.needs:  # of the others the title says so
      assert rows[key].endswith(metric.formula)
  assert "Not measured" not in text


def test_digits_that_were_rounded_off_are_said():
  wide = sets.arrays()["features"].astype(">f8")
  shards = [files.Shard(pathlib.Path("a.npz"), wide, np.zeros(sets.N, int)), *SETS[0].shards]
  request = passes.Request(num_classes=sets.K)
  results = table.Results([SETS[1], files.FeatureSet(shards, {}, [])], request, VALUES, COLLAPSE)
  said = "test features are float64, measured in float32; --float64 keeps their precision"
  assert said in table.to_text(results).splitlines()
  got = json.loads(table.to_json(results))
  assert (got["train"]["dtype"], got["test"]["dtype"]) == ("float32", "float64, float32")
  with jax.enable_x64(True):
    assert "measured in" not in table.to_text(results)


def test_test_examples_that_no_train_class_claims_are_counted():
  shard = SETS[0].shards[0]
  train = files.FeatureSet([shard._replace(labels=shard.labels % 2)], {}, [])
  request = passes.Request(num_classes=sets.K)
  results = table.Results([train, SETS[1]], request, VALUES, COLLAPSE)
  strangers = int(np.sum(SETS[1].shards[0].labels > 1))
  said = (
    f"{strangers} of {sets.N} test examples are of classes without train examples: left out of "
    "strong/second_moment, weak/second_moment, shift/means, and errors in test/ncc_error"
  )
  assert said in " ".join(table.to_text(results).splitlines())
  assert json.loads(table.to_json(results))["test"]["without_train_class"] == strangers


def test_one_class_has_nothing_to_be_compared_with():
  request = passes.Request(num_classes=sets.K)
  text = table.to_text(table.Results(SETS, request, VALUES | {"classes/present": 1.0}, {}))
  assert text.splitlines()[3] == "Fewer than two classes have examples: nothing to compare."


def test_what_was_not_measured_is_said():
  request = passes.Request(num_classes=sets.K, scatter=False)
  needs = {key: metric.needs for key, metric in nc.METRICS.items()}
  values = {key: VALUES[key] for key in VALUES if not {"head", "scatter"} & {*needs[key]}}
  text = table.to_text(table.Results(SETS[:1], request, values, {}))
  assert set(rows_of(text)) == set(values)
  said = " ".join(text.splitlines())
  for reason, need in (("no `weight`", "head"), ("--no_scatter", "scatter")):
    keys = [key for key in VALUES if need in needs[key]]
    assert f"Not measured ({reason}): {', '.join(keys)}" in said


def test_json_is_strict_though_values_may_be_nan():
  values = VALUES | {"nc1/cdnv": np.nan, "nc1/pinv": np.inf, "classes/present": 1.0}
  text = table.to_json(table.Results(SETS[:1], passes.Request(num_classes=1), values, {}))
  got = json.loads(text, parse_constant=pytest.fail)
  assert got["metrics"]["nc1/cdnv"] == "nan" and float(got["metrics"]["nc1/pinv"]) == np.inf
  assert got["metrics"]["nc3/cosine"] == VALUES["nc3/cosine"]
  sizes = {"examples": 2 * sets.N, "dim": sets.D}
  assert got["train"] == {"files": ["a.npz", "b.npz"], **sizes, "dtype": "float32"}
  assert got["num_classes"] == 1 and got["head"] is False and got["bias"] is False
  assert got["test_collapse"] == {} and got["at_collapse"] == {}  # one class has no limit
  assert got["unused_arrays"] == ["epoch"]


def test_json_has_the_limits_of_the_classes_that_are_present():
  text = table.to_json(
    table.Results(SETS, passes.Request(num_classes=sets.K, head=HEAD), VALUES, COLLAPSE)
  )
  got = json.loads(text)
  limits = {key: metric.at_collapse for key, metric in nc.METRICS.items()}
  assert got["at_collapse"] == {key: limit(3) for key, limit in limits.items() if limit}
  assert got["test_collapse"] == COLLAPSE and got["test"]["files"] == ["test.npz"]
  assert got["head"] is True and got["bias"] is True and got["test"]["without_train_class"] == 0
