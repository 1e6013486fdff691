"""Several real processes on this machine, two virtual devices each, against a single one."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from nc_jax import processes, writers
from nc_jax.errors import UserError
from nc_jax.training import building, observe
from tests.configs import ROOT, TINY, tiny

# Class means, probes and intervals are what a process could get wrong from its own share alone.
SETTINGS = TINY | {
  "data.label_map": "halves",
  "observe.layers": "penultimate",
  "observe.epochs": "0,2,4",
  "observe.bootstrap": 20,
  "probe.target": "fine",
  "probe.epochs": "4",
}
STREAMED = {"data.device_budget_mib": 0}
LONG = {"optim.total_epochs": 3000, "observe.epochs": 3000, "probe.epochs": 3000}
PATIENCE = 240  # seconds that any of this may take on a busy machine


class Group:
  """The command in `number` processes of `devices` virtual devices. As a context: none is left.

  `last`: flags for the last process alone.
  """

  def __init__(self, workdir, number=2, devices=2, port=None, last=(), **settings):
    self.workdir, self.number, self.port = workdir, number, port or free_port()
    flags = [f"--config.{key}={value}" for key, value in (SETTINGS | settings).items()]
    command = [sys.executable, "-m", "nc_jax.main", f"--workdir={workdir}"]
    command += ["--config=configs/digits.py", *flags]
    environment = {key: value for key, value in os.environ.items() if key != "PJRT_NPROC"} | {
      "JAX_PLATFORMS": "cpu",
      # Compiling takes most of the time: JAX's cache serves process 0 alone.
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    self.processes, self.logs = [], []
    for process in range(number):
      meet = [
        f"--coordinator=127.0.0.1:{self.port}",
        f"--num_processes={number}",
        f"--process_id={process}",
      ]
      self.logs.append(workdir.with_name(f"{workdir.name}.{self.port}.{process}.log"))
      with self.logs[-1].open("w") as log:
        self.processes.append(
          subprocess.Popen(
            command + (meet if number > 1 else []) + list(last if process == number - 1 else ()),
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
          )
        )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for process in self.processes:
      process.kill()
      process.wait()

  def said(self, process=0):
    return self.logs[process].read_text()

  def told(self):
    """All logs, to be shown where something fails."""
    return "".join(f"\n--- process {i}\n{self.said(i)[-4000:]}" for i in range(self.number))

  def wait_for(self, what):
    """Waits until `what()` is true; fails where a process ends before."""
    begin = time.monotonic()
    while not what():
      assert all(process.poll() is None for process in self.processes), self.told()
      assert time.monotonic() - begin < PATIENCE, self.told()
      time.sleep(0.01)

  def end(self, *statuses):
    """Waits for all processes, whose exit statuses must be these."""
    begin, first = time.monotonic(), None
    while any(process.poll() is None for process in self.processes):
      now = time.monotonic()
      if first is None and any(process.poll() is not None for process in self.processes):
        first = now
      late = first is not None and now - first > processes.LOST + 30
      assert not late and now - begin < PATIENCE, self.told()
      time.sleep(0.05)
    assert tuple(process.returncode for process in self.processes) == statuses, self.told()
    return self


def free_port():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def assert_same_numbers(a, b):
  """Of two workdirs. Sums over shares round differently; 32 steps of training amplify that."""
  a, b = (writers.read_csv(workdir / "metrics.csv") for workdir in (a, b))
  place = lambda row: tuple(row.values())[:5]
  assert [place(row) for row in a] == [place(row) for row in b]
  for x, y in zip(a, b, strict=True):
    # Probes and errors count examples: one of the 96 may fall to the other side.
    counted = "error" in x["key"] or "probe" in x["key"] or "mismatch" in x["key"]
    tolerance = {"abs": 1.5 / 96} if counted else {"rel": 1e-3, "abs": 1e-5}
    assert x["value"] == pytest.approx(y["value"], **tolerance), (x, y)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def one(folder):
  """The workdir of one process with one device: what all others must agree with."""
  with Group(folder / "one", number=1, devices=1) as group:
    return group.end(0).workdir


@pytest.fixture(scope="module")
def two(folder):
  """Two processes of two devices each, to the end."""
  with Group(folder / "two") as group:
    return group.end(0, 0)


@pytest.fixture(scope="module")
def killed(folder):
  """The same from streamed data, process 1 killed after a save: (group, seconds to the end)."""
  with Group(folder / "killed", **STREAMED) as group:
    group.wait_for((group.workdir / "checkpoints/8").exists)
    group.processes[1].kill()
    begin = time.monotonic()
    group.processes[0].wait(PATIENCE)
    return group, time.monotonic() - begin


def test_two_processes_give_the_numbers_of_one(one, two):
  assert_same_numbers(two.workdir, one)
  assert {r["key"] for r in writers.read_csv(one / "metrics.csv")} >= {
    "probe/fine/ceiling", "nc1/trace_ratio/low", "strong/second_moment/high",
  }  # fmt: skip


def test_process_0_alone_writes_and_talks(two):
  assert "on 4 x cpu in 2 processes" in two.said(0) and "epoch 4/4" in two.said(0)
  assert (two.workdir / "verdict.txt").read_text() in two.said(0)
  # Process 1 only has Gloo's own words, whose threads write into one another's lines.
  words = set(re.findall(r"[A-Za-z]+", two.said(1)))
  assert words <= set("Gloo Rank is connected to peer ranks Expected number of".split()), two.told()
  events = list((two.workdir / "tensorboard").iterdir())
  assert len(events) == 1
  for name in ("config.json", "examples.npz", "class_means.npz", "collapse.png"):
    assert (two.workdir / name).exists()


def test_one_process_of_four_devices_gives_the_same(one, folder):
  with Group(folder / "four", number=1, devices=4) as group:
    group.end(0)
  assert_same_numbers(folder / "four", one)


def test_when_one_is_killed_the_other_ends_in_the_time_that_help_states(killed):
  group, seconds = killed
  stated = int(re.search(r"others end within (\d+) seconds", " ".join(help_text().split()))[1])
  assert seconds < stated == processes.LOST + processes.FAREWELL
  assert group.processes[0].returncode not in (0, None)


@pytest.mark.parametrize(("number", "devices"), [(1, 1), (1, 4), (2, 2)])
def test_what_two_left_behind_goes_on_in_any_number(killed, one, folder, number, devices):
  workdir = folder / f"on{number}x{devices}"
  shutil.copytree(killed[0].workdir, workdir)
  with Group(workdir, number, devices, **STREAMED) as group:
    group.end(*[0] * number)
    assert "Going on from the checkpoint at step" in group.said()
  assert_same_numbers(workdir, one)


def test_a_finished_run_says_so_to_all(two):
  before = (two.workdir / "verdict.json").stat()
  with Group(two.workdir) as group:
    group.end(0, 0)
    assert "is finished; nothing was changed" in group.said(0)
    assert "finished" not in group.said(1)
  assert (two.workdir / "verdict.json").stat() == before


def test_another_config_is_refused_by_all_in_the_same_words(two):
  with Group(two.workdir, seed=7) as group:
    group.end(2, 2)
    for process in range(2):
      assert "holds a run of another config (seed: 0 -> 7)" in group.said(process)


def test_a_second_start_is_refused_and_a_signal_to_one_stops_and_saves_all(folder):
  with Group(folder / "long", **LONG) as group:
    group.wait_for(lambda: "epoch 0/" in group.said())
    with Group(folder / "long", port=group.port, **LONG) as second:
      second.end(2, 2)
      for process in range(2):
        assert second.said(process).count("another run is writing there now") == 1
    group.processes[1].send_signal(signal.SIGTERM)
    group.end(128 + signal.SIGTERM, 128 + signal.SIGTERM)
    step = re.search(r"Stopped by SIGTERM in epoch \d+ \(step (\d+)\) and saved", group.said())[1]
    assert (group.workdir / "checkpoints" / step).is_dir()
    assert "Traceback" not in group.told()


def test_a_loss_that_is_not_finite_ends_all_alike(folder):
  changes = {"optim.peak_lr": 1e18, "model.batch_norm": False, "observe.epochs": "4"}
  with Group(folder / "nan", **changes) as group:
    group.end(1, 1)
    for process in range(2):
      assert re.search(r"nc_jax: The loss is (nan|inf) at step \d+", group.said(process))


def test_processes_of_different_commands_are_refused(folder):
  with Group(folder / "mixed", last=["--config.seed=1"]) as group:
    group.end(2, 2)
    for process in range(2):
      assert "Process 1 has another config or workdir than process 0" in group.said(process)


def help_text():
  from nc_jax import main

  return main.__doc__


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    ((False, "host:1", 2, None), "--process_id is missing"),
    ((False, None, None, 0), "--coordinator and --num_processes is missing"),
    ((False, "host", 2, 0), "--coordinator=host, but must be HOST:PORT"),
    ((False, "host:1", 0, 0), "--num_processes=0, but must be >= 1"),
    ((False, "host:1", 2, 2), "--process_id=2, but must be in 0 ... 1"),
    ((True, "host:1", 2, 0), "--distributed finds the processes by itself"),
  ],
)
def test_flags_that_do_not_go_together_are_refused(flags, words):
  with pytest.raises(UserError, match=re.escape(words)):
    processes.cluster(*flags)
  assert processes.cluster(False, None, None, None) is None


def test_where_there_is_no_cluster_one_line_says_so(tmp_path):
  known = re.compile("SLURM|OMPI|KUBERNETES|JAX_COORD")
  done = subprocess.run(
    [sys.executable, "-m", "nc_jax.main", "--config=configs/digits.py", "--distributed",
     f"--workdir={tmp_path / 'x'}"],
    cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
    env={key: value for key, value in os.environ.items() if not known.match(key)},
  )  # fmt: skip
  assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
  assert "--distributed: no cluster was found" in done.stderr
  assert not (tmp_path / "x").exists()


def test_a_port_that_is_taken_is_named():
  with socket.socket() as taken:
    taken.bind(("", 0))
    taken.listen()
    where = processes.Cluster(f"localhost:{taken.getsockname()[1]}", 2, 0)
    with pytest.raises(UserError, match="cannot listen there: Address already in use"):
      processes.initialise(where)


@pytest.mark.parametrize(("number", "local"), [(1, 1), (2, 2), (3, 1), (8, 4)])
def test_every_example_is_seen_once_whatever_the_number_of_processes(monkeypatch, number, local):
  experiment = building.build(tiny(data__train_size=131, data__batch_size=32))
  monkeypatch.setattr(jax, "device_count", lambda: number * local)
  monkeypatch.setattr(jax, "local_device_count", lambda: local)

  def of_all(share):
    for process in range(number):
      monkeypatch.setattr(jax, "process_index", lambda process=process: process)
      yield share()

  for size in (1, 7, 96, 131):
    for calls in zip(*of_all(lambda size=size: observe.batches(size, 5, None, 2)), strict=True):
      assert len({index.shape for index, _ in calls}) == 1  # else some would wait for ever
    seen = of_all(lambda size=size: [i[m] for i, m in observe.batches(size, 5, None, 2)])
    ids = np.concatenate([part for parts in seen for part in parts])
    np.testing.assert_array_equal(np.sort(ids), np.arange(size))
  if 32 % (number * local) == 0:
    epoch = np.concatenate(list(of_all(lambda: experiment.epoch_index(3))), axis=1)
    order = building.epoch_order(0, 3, 131)[:128]
    np.testing.assert_array_equal(epoch.ravel(), order)  # batch by batch those of one process
