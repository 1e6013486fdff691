"""Kill -9 at any moment: the same command goes on, and ends as if nothing had happened.

NC_JAX_KILLS=20 NC_JAX_SEED=1 python -m pytest tests/faults/kill_test.py kills more often, at other
moments.
"""

import collections
import os
import random
import signal
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.configs import TINY
from tests.faults.forked import Starter

KILLS = int(os.environ.get("NC_JAX_KILLS", 5))
SEED = int(os.environ.get("NC_JAX_SEED", 0))
FLAGS = [
  f"--config.{key}={value}" for key, value in (TINY | {"optim.total_epochs": 8 * KILLS}).items()
]
WHOLE = (
  "config.json", "examples.npz", "metrics.csv", "class_means.npz", "verdict.txt", "verdict.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
  with Starter(tmp_path_factory.mktemp("starter") / "log") as starter:
    yield starter


@pytest.fixture(scope="module")
def unbroken(starter, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("unbroken") / "run"
  done = starter.run("--config=configs/digits.py", f"--workdir={workdir}", *FLAGS)
  assert done.status == 0, done.said
  return workdir


class Moments:
  """Draws the moments at which a run is killed."""

  def __init__(self, workdir, chance):
    self._workdir, self._chance, self._rows = workdir, chance, 0
    self._signs = {
      "rows": self._more_rows,
      "replacing": lambda: any(workdir.glob(".*.unfinished")),
      "saving": lambda: any(workdir.glob("checkpoints/*.orbax-checkpoint-tmp")),
    }

  def await_one(self, pid) -> str:
    """Returns at a moment of one kind, which it names: after rows have come, while a file is being
    replaced or a checkpoint written, or at any time from the start on."""
    kind = self._chance.choice(["any", *self._signs])
    if kind == "any":
      time.sleep(self._chance.uniform(0, 3))
      return kind
    self._more_rows()
    for _ in range(self._chance.randint(1, 3)):
      for wanted in (False, True):
        while bool(self._signs[kind]()) != wanted:
          os.kill(pid, 0)  # raises where the run has ended
          time.sleep(5e-4)
    time.sleep(self._chance.uniform(0, 5e-3))
    return kind

  def _more_rows(self):
    path, before = self._workdir / "metrics.csv", self._rows
    self._rows = path.stat().st_size if path.exists() else 0
    return self._rows > before


def scalars(workdir):
  board = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"scalars": 0})
  board.Reload()
  return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_killed_at_any_moment_the_run_ends_as_if_it_had_not_been(starter, unbroken, tmp_path):
  workdir, left = tmp_path / "run", collections.Counter()
  command = "--config=configs/digits.py", f"--workdir={workdir}", *FLAGS
  moments = Moments(workdir, random.Random(SEED))
  for _ in range(KILLS):
    pid = starter.start(*command)
    left[moments.await_one(pid)] += 1
    os.kill(pid, signal.SIGKILL)
    ended = starter.end()
    assert ended.status == -signal.SIGKILL, (SEED, ended)
    left["a file half written"] += any(workdir.glob(".*.unfinished"))
    left["a checkpoint half written"] += any(workdir.glob("checkpoints/*-tmp"))
  last = starter.run(*command)
  assert last.status == 0, (SEED, last)
  print(f"NC_JAX_SEED={SEED} NC_JAX_KILLS={KILLS}: {dict(left)}")
  for name in WHOLE:
    assert (workdir / name).read_bytes() == (unbroken / name).read_bytes(), (SEED, name)
  assert contents(workdir) == contents(unbroken), SEED  # nothing half written is left
  assert scalars(workdir) == scalars(unbroken), SEED


def contents(workdir):
  """Names of the files, but for those that have a different one in each run."""
  files = (path.relative_to(workdir) for path in workdir.rglob("*") if path.is_file())
  return {str(path) for path in files if not {"tensorboard", "d"} & set(path.parts)}
