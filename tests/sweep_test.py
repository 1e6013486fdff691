"""Sweeps: what a file asks for, and what is left of it."""

import csv
import json
import subprocess
import sys

import pytest

from nc_jax.errors import UserError
from nc_jax.experiments import grid
from tests.configs import ROOT, TINY, load

OVERRIDES = [f"--config.{key}={value}" for key, value in (TINY | {"seed": 0}).items()][:-1]
DIVERGING = ["--config.loss.name=squared_error", "--config.model.batch_norm=False"]


def written(path, content):
  path.write_text(content if isinstance(content, str) else json.dumps(content))
  return path


def sweep(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "nc_jax.sweep", "--config=configs/digits.py", *map(str, arguments)],
    cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
  )  # fmt: skip


def test_a_grid_is_all_combinations_in_the_order_of_the_file(tmp_path):
  file = written(tmp_path / "s.json", {
    "optim.peak_lr": {"log": [0.01, 1, 3]},
    "data.train_size": [100, 200],
    "loss.gamma": {"linear": [0, 1, 2]},
  })  # fmt: skip
  points = grid.read(file)
  assert len(points) == 12
  assert points[0] == {"optim.peak_lr": 0.01, "data.train_size": 100, "loss.gamma": 0}
  assert points[3] == {"optim.peak_lr": 0.01, "data.train_size": 200, "loss.gamma": 1}
  assert [point["optim.peak_lr"] for point in points[::4]] == [0.01, 0.1, 1]


def test_a_list_is_a_union_in_which_no_point_returns(tmp_path):
  first, second = {"model.width": [8, 16]}, {"model.width": [16, 32], "model.depth": [2]}
  points = grid.read(written(tmp_path / "s.json", [first, second, first]))
  assert points == [
    {"model.width": 8}, {"model.width": 16},
    {"model.width": 16, "model.depth": 2}, {"model.width": 32, "model.depth": 2},
  ]  # fmt: skip


def test_the_examples_that_come_with_the_project_can_be_read():
  for path in (ROOT / "configs" / "sweeps").glob("*.json"):
    points = grid.read(path)
    assert 10 < len(points) < 50
    assert len(grid.cells(load("digits"), points)) == len(points)


@pytest.mark.parametrize(
  ("content", "words"),
  [
    ("{", "is not JSON: .*line 1"),
    ("[]{", "is not JSON"),
    ({}, "must be an object of settings"),
    ([3], "must be an object of settings"),
    ({"optim.peak_lrr": [1]}, "Did you mean optim.peak_lr?"),
    ({"seed": [1]}, "seeds are chosen by --seeds"),
    ({"optim.peak_lr": []}, r"gives optim.peak_lr = \[\], but it must be a list"),
    ({"optim.peak_lr": 0.1}, "gives optim.peak_lr = 0.1, but"),
    ({"optim.peak_lr": {"log": [0, 1, 3]}}, "of numbers above 0"),
    ({"optim.peak_lr": {"log": [0.1, 1, 2.5]}}, "but it must be"),
    ({"optim.peak_lr": {"cubic": [0.1, 1, 2]}}, "but it must be"),
    ({"model.width": list(range(1, 200)), "model.depth": list(range(1, 200))}, "more than 10,000"),
  ],
)
def test_a_mistake_in_the_file_is_named(content, words, tmp_path):
  with pytest.raises(UserError, match=words):
    grid.read(written(tmp_path / "s.json", content))


def test_a_value_that_a_setting_refuses_is_refused_before_anything_is_trained(tmp_path):
  file = written(tmp_path / "s.json", {"optim.peak_lr": [0.1, -1.0]})
  refused = sweep(f"--sweep={file}", f"--workdir={tmp_path / 'w'}", *OVERRIDES)
  assert refused.returncode == 2 and "config.optim.peak_lr = -1.0, but" in refused.stderr
  absent = sweep(f"--sweep={tmp_path / 'none.json'}", f"--workdir={tmp_path / 'w'}")
  assert absent.returncode == 2 and "cannot be read: No such file" in absent.stderr
  assert not (tmp_path / "w").exists()


def cells(workdir):
  with (workdir / "cells.csv").open(newline="") as file:
    return list(csv.DictReader(file))


def test_a_sweep_goes_on_past_failed_cells_and_grows_without_repeating(tmp_path):
  workdir = tmp_path / "w"
  file = written(tmp_path / "s.json", {"optim.peak_lr": [0.01, 1e18], "model.width": [8, 16]})
  asked = f"--sweep={file}", f"--workdir={workdir}", "--seeds=2", *OVERRIDES[:-1], *DIVERGING
  asked = [arg for arg in asked if "model.width" not in arg]
  done = sweep(*asked)
  assert done.returncode == 0, done.stderr
  rows = cells(workdir)
  assert len(rows) == 8 and {row["seed"] for row in rows} == {"0", "1"}
  for row in rows:
    diverged = row["optim.peak_lr"] == "1e+18"
    assert row["failed"].startswith("The loss is ") == diverged
    assert (row["V(train)"] == "nan") == diverged
  assert "Failed: 4 of 8 runs" in done.stdout
  assert {"sweep.png", "sweep.svg", "results.csv"} <= {path.name for path in workdir.iterdir()}
  # Runs of one width were trained together, whatever their rate and seed.
  assert "[1/2]" in done.stderr and "4 runs together" in done.stderr

  kept = {path: path.stat().st_mtime_ns for path in workdir.glob("runs/*/*/metrics.csv")}
  assert len(kept) == 8
  written(file, {"optim.peak_lr": [0.01, 0.02, 1e18], "model.width": [8, 16]})
  grown = sweep(*asked)
  assert grown.returncode == 0 and "8 of 12 runs are there already" in grown.stderr
  assert kept == {path: path.stat().st_mtime_ns for path in kept}
  assert [row for row in cells(workdir) if row["optim.peak_lr"] != "0.02"] == rows
