"""A disk that is full, or no longer writable: what is told, what is kept, and how it goes on."""

import re
import subprocess
from contextlib import ExitStack, contextmanager

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from nc_jax import files, main, verdict, workdirs, writers
from nc_jax.console import Console
from nc_jax.errors import RunError
from nc_jax.training import building, checkpoints, loop
from tests.configs import ROOT, TINY, tiny
from tests.faults.forked import Starter


def mount(*arguments):
  subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


@contextmanager
def mounted(folder, *arguments):
  try:
    mount(*arguments, folder)
  except (OSError, subprocess.CalledProcessError) as error:
    pytest.skip(f"A disk cannot be mounted: {error.stderr or error}")
  try:
    yield folder
  finally:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def small_disk(folder, kib):
  folder.mkdir()
  with mounted(folder, "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs"):
    yield folder


@pytest.fixture
def disk(tmp_path):
  """A disk of its own, of 20 MB."""
  with small_disk(tmp_path / "disk", 20_000) as folder:
    yield folder


def resize(disk, kib):
  mount("-o", f"remount,size={kib}k", disk)


def fill(disk):
  """Leaves no room on a disk."""
  with (disk / "ballast").open("wb", buffering=0) as file:
    try:
      while file.write(bytes(4096)) == 4096:
        pass
    except OSError:
      pass


# --- Single files ---


def save_figure(kind):
  def save(file):
    figure = Figure()
    figure.subplots().plot(np.arange(3000) % 7)
    figure.savefig(file, format=kind)

  return save


WRITERS = {
  "csv": lambda file: file.write(b"1,2\n" * 30_000),
  "npz": lambda file: np.savez(file, a=np.zeros(20_000), b=np.zeros(3)),
  "png": save_figure("png"),
  "svg": save_figure("svg"),
  "pdf": save_figure("pdf"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_on_a_full_disk_a_file_stays_what_it_was_and_the_error_names_it(disk, kind):
  path = disk / f"file.{kind}"
  path.write_bytes(b"before")
  fill(disk)
  with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
    with files.replacing(path, "wb") as file:
      WRITERS[kind](file)
  assert path.read_bytes() == b"before"
  (disk / "ballast").unlink()
  assert [p.name for p in disk.iterdir()] == [path.name]
  with files.replacing(path, "wb") as file:
    WRITERS[kind](file)
  assert path.stat().st_size > 6


def test_rows_are_added_whole_or_not_at_all(disk):
  rows = [("train", "penultimate", f"key{i}", i / 3) for i in range(300)]
  writer = writers.MetricsWriter(disk, -1)
  writer.write(0, 0, rows)
  path, whole = disk / "metrics.csv", (disk / "metrics.csv").read_bytes()
  resize(disk, sum(p.stat().st_blocks // 2 for p in disk.rglob("*") if p.is_file()) + 8)
  with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
    writer.write(8, 1, rows)
  assert path.read_bytes() == whole
  resize(disk, 20_000)
  writer.write(8, 1, rows)
  writer.close()
  assert path.read_bytes().startswith(whole) and len(writers.read_csv(path)) == 600


def test_every_file_of_the_package_is_written_by_these_functions():
  opened = re.compile(r"""open\([^)]*["'][wax]b?\+?["']|write_text\(|write_bytes\(|savez?\(["']""")
  found = {
    f"{path.relative_to(ROOT)}: {line.strip()}"
    for path in (ROOT / "nc_jax").rglob("*.py")
    for line in path.read_text().splitlines()
    if opened.search(line) and path.name != "files.py" and '".lock"' not in line
  }
  assert not found


# --- Whole runs ---


@pytest.fixture(scope="module")
def experiment():
  """To be trained many times: the state that a run is given is gone afterwards."""
  built = building.build(tiny())
  return built._replace(state=jax.tree.map(np.array, built.state))


class At(Console):
  """Does something to the disk once a step is reached."""

  def __init__(self, step=0, what=lambda: None):
    super().__init__(4, 8, quiet=True)
    self._at, self._what = step, what

  def trained(self, step, loss):
    if self._at and step >= self._at:
      self._at = 0
      self._what()


def train(experiment, workdir, console=None):
  workdir.mkdir(exist_ok=True)
  loop.train(experiment, workdir, console or At())
  main.finish(workdir, console or At())


@pytest.fixture(scope="module")
def table(experiment, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("unbroken")
  train(experiment, workdir)
  return (workdir / "metrics.csv").read_bytes()


def check_kept(experiment, workdir, table):
  """What a failed run leaves: whole rows, each of them right, and checkpoints that are whole."""
  path = workdir / "metrics.csv"
  content = path.read_bytes() if path.exists() else b""
  assert table.startswith(content) and (not content or content.endswith(b"\n"))
  for name in ("class_means.npz", "examples.npz"):
    if (workdir / name).exists():
      np.load(workdir / name).close()
  if (workdir / "checkpoints").exists():
    kept = checkpoints.Checkpoints(workdir, read_only=True)
    for step in kept.steps():
      kept.restore(step, experiment.state)


def test_wherever_the_disk_is_full_the_run_goes_on_once_there_is_room(tmp_path, experiment, table):
  struck = set()
  for kib in (4, 16, 24, 60, 200, 450):
    with small_disk(tmp_path / f"{kib}", kib) as disk:
      workdir = disk / "run"
      with pytest.raises((OSError, RunError), match="No space left on device") as told:
        train(experiment, workdir)
      struck.add(re.search(r"/run/(\w+)", str(told.value))[1])
      assert "\n" not in str(told.value)
      check_kept(experiment, workdir, table)
      resize(disk, 20_000)
      train(experiment, workdir)
      assert (workdir / "metrics.csv").read_bytes() == table
      assert not list(workdir.rglob(".*.unfinished"))
  assert struck >= {"metrics", "tensorboard", "checkpoints"}


def test_where_there_is_no_room_for_figures_or_verdict_the_run_is_not_finished(disk, experiment):
  workdir = disk / "run"
  workdir.mkdir()
  loop.train(experiment, workdir, At())
  judged = verdict.judge(writers.read_csv(workdir / "metrics.csv"))
  for name, end in (
    ("collapse.png", lambda: main.finish(workdir, At())),
    ("verdict.txt", lambda: verdict.write(judged, workdir)),
  ):
    fill(disk)
    with pytest.raises(OSError, match=f"No space left on device: '{workdir / name}'"):
      end()
    assert not (workdir / name).exists() and not workdirs.finished(workdir)
    (disk / "ballast").unlink()
  main.finish(workdir, At())
  assert workdirs.finished(workdir)


def test_a_workdir_that_becomes_read_only_stops_the_run_and_keeps_what_is_there(
  disk, experiment, table
):
  workdir = disk / "run"
  workdir.mkdir()
  with ExitStack() as stack:

    def lock():
      stack.enter_context(mounted(workdir, "--bind", workdir))
      mount("-o", "remount,ro,bind", workdir)

    with pytest.raises((OSError, RunError), match="Read-only file system"):
      train(experiment, workdir, At(16, lock))
    with pytest.raises(OSError, match="Read-only file system"):
      train(experiment, workdir)
    check_kept(experiment, workdir, table)
  train(experiment, workdir)
  assert (workdir / "metrics.csv").read_bytes() == table


def test_the_command_tells_it_in_one_line_with_status_1(disk, tmp_path, table):
  flags = [f"--config.{key}={value}" for key, value in TINY.items()]
  command = "--config=configs/digits.py", f"--workdir={disk / 'run'}", *flags
  with Starter(tmp_path / "log") as starter:
    resize(disk, 200)
    done = starter.run(*command)
    assert done.status == 1
    told = [line for line in done.said.splitlines() if not re.match("digits:|epoch", line)]
    assert len(told) == 1 and told[0].startswith("nc_jax: "), done.said
    assert "No space left on device" in told[0] and f"{disk}/run/" in told[0]
    resize(disk, 20_000)
    assert starter.run(*command).status == 0
    mount("-o", "remount,ro", disk)
    new = starter.run("--config=configs/digits.py", f"--workdir={disk / 'new'}", *flags)
    assert (new.status, new.said.count("\n")) == (2, 1)
    assert f"--workdir={disk}/new cannot be written: Read-only file system." in new.said
