"""The command as users type it, on networks that train in a second."""

import csv
import json
import signal
import subprocess
import sys
import time

import pytest

from nc_jax.errors import UserError
from nc_jax.experiments import runner, study
from tests.configs import ROOT, TINY, load

SMALL = TINY | {"optim.total_epochs": 6, "observe.epochs": None, "observe.bootstrap": 20}
OVERRIDES = [f"--config.{key}={value}" for key, value in SMALL.items()]


def command(*arguments):
  return [sys.executable, "-m", "nc_jax.experiments", *map(str, arguments)]


def run(*arguments):
  return subprocess.run(
    command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
  )


@pytest.fixture(scope="module")
def e1(tmp_path_factory):
  """(workdir, arguments, what was said) of a finished experiment."""
  workdir = tmp_path_factory.mktemp("e1")
  arguments = "e1", f"--workdir={workdir}", "--seeds=3", "--cells=cross", *OVERRIDES
  done = run(*arguments)
  assert done.returncode == 0, done.stderr
  return workdir, arguments, done


def test_what_an_experiment_leaves_behind(e1):
  workdir, _, done = e1
  left = {path.name for path in (workdir / "e1").iterdir()}
  figures = {f"e1_{name}.{kind}" for name in ("collapse", "phase") for kind in ("png", "svg")}
  assert left == figures | {
    "results.csv", "table.csv", "table.md", "verdict.json", "study.json", "runs",
  }  # fmt: skip
  lines = (workdir / "e1" / "results.csv").read_text().splitlines()
  assert lines[0] == "cell,seed,epoch,split,layer,key,value"
  assert {line.split(",")[1] for line in lines[1:]} == {"0", "1", "2"}
  keys = {tuple(line.split(",")[3:6]) for line in lines[1:]}
  assert ("train", "penultimate", "nc1/trace_ratio/low") in keys
  assert ("test", "logits", "error/classifier/high") in keys
  verdict = json.loads((workdir / "e1" / "verdict.json").read_text())
  assert {claim["item"] for claim in verdict["claims"]} >= {"E1.1", "E1.2", "E1.3", "E1.4", "runs"}
  assert verdict["passed"] is False  # six epochs of a tiny network
  (fall,) = (claim for claim in verdict["claims"] if claim["item"] == "E1.1")
  assert fall["low"] <= fall["measured"] <= fall["high"] and len(fall["seeds"]) == 3
  with (workdir / "e1" / "table.csv").open() as file:
    (row,) = csv.DictReader(file)
  assert float(row["V(test)/V(train) low"]) < float(row["V(test)/V(train) high"])
  assert "E1.2" in done.stdout and "FAIL" in done.stdout
  page = (workdir / "report.html").read_text()
  assert "--cells=cross" in page and "Limitations of neural collapse" in page


def test_a_finished_experiment_is_not_run_again_but_its_files_are_made_anew(e1):
  workdir, arguments, _ = e1
  metrics = workdir / "e1" / "runs" / "cross_entropy" / "seed2" / "metrics.csv"
  before = metrics.stat().st_mtime_ns, (workdir / "e1" / "results.csv").read_bytes()
  (workdir / "e1" / "results.csv").unlink()
  again = run(*arguments)
  assert again.returncode == 0 and "3 of 3 runs are there already" in again.stderr
  assert before == (metrics.stat().st_mtime_ns, (workdir / "e1" / "results.csv").read_bytes())


def test_a_study_that_lies_there_is_told_of_too_unless_its_cells_have_changed(e1, tmp_path):
  workdir, arguments, _ = e1
  said = []
  (own,) = study.beside([], workdir, ROOT / "configs", said.append)
  assert own.name == "e1" and len(own.jobs) == 3 and not said
  changed = tmp_path / "e1.py"
  source = (ROOT / "configs" / "e1.py").read_text()
  changed.write_text(source.replace("observe.bootstrap = 200", "observe.bootstrap = 199"))
  assert study.beside([], workdir, tmp_path, said.append) == [own] and not said  # overridden
  changed.write_text(source.replace("max_to_keep = 1", "loss = 1"))
  assert study.beside([], workdir, tmp_path, said.append) == []
  assert said[0].startswith("The report leaves out e1: ")


def test_another_config_in_the_same_folder_is_refused(e1):
  workdir, arguments, _ = e1
  before = (workdir / "e1" / "results.csv").read_bytes()
  refused = run(*arguments, "--config.optim.peak_lr=0.01")
  assert refused.returncode == 2
  assert "by another config (optim.peak_lr: 0.05 -> 0.01)" in refused.stderr
  assert len(refused.stderr.strip().splitlines()) == 1
  assert before == (workdir / "e1" / "results.csv").read_bytes()


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["e5"], "invalid choice: 'e5'"),
    (["e1"], "--workdir"),
    (["e2", "--workdir=W", "--scale=narrow"], "--scale=narrow: e2 has standin, paper"),
    (["e1", "--workdir=W", "--cells=mnist"], "e1 has the cells cross_entropy; squared_error"),
    (["e1", "--workdir=W", "--config.optim.peak_lrr=1"], "Did you mean optim.peak_lr?"),
    (["e1", "--workdir=W", "--config.loss.name=focal"], "config.loss.name differs between"),
    (["e1", "--workdir=W", "--config.seed=3"], "seeds are chosen by --seeds"),
    (["e1", "--workdir=W", "--seeds=0"], "--seeds=0: must be at least 1"),
    (["e1", "--workdir=W", "--sedes=3"], "--sedes=3"),
    (["e1", "--workdir=W", "--configs=nowhere"], "there is no file nowhere/e1.py"),
  ],
)
def test_a_mistake_ends_in_one_line_and_nothing_is_written(arguments, words, tmp_path):
  arguments = [str(tmp_path / "W").join(arg.split("W")) for arg in arguments]
  refused = run(*arguments)
  assert refused.returncode == 2
  assert words in refused.stderr and len(refused.stderr.strip().splitlines()) == 1
  assert not (tmp_path / "W").exists()


def test_a_killed_experiment_goes_on_to_the_same_results(e1, tmp_path):
  _, arguments, _ = e1
  slow = "--config.checkpoint.every_epochs=1", "--config.optim.total_epochs=60"
  options = [arg for arg in arguments if not arg.startswith("--workdir")]
  unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
  assert run(*options, f"--workdir={unbroken}", *slow).returncode == 0

  process = subprocess.Popen(
    command(*options, f"--workdir={broken}", *slow),
    cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
  )  # fmt: skip
  metrics = broken / "e1" / "runs" / "cross_entropy" / "seed0" / "metrics.csv"
  deadline = time.monotonic() + 120
  while not (metrics.exists() and "\n24," in metrics.read_text()):  # step 24, epoch 3
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.05)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not (broken / "e1" / "results.csv").exists()

  assert run(*options, f"--workdir={broken}", *slow).returncode == 0
  for name in ("results.csv", "table.csv", "verdict.json"):
    assert (broken / "e1" / name).read_bytes() == (unbroken / "e1" / name).read_bytes()
  assert not list((broken / "e1" / "runs").glob(".unfinished*"))


def test_every_cell_of_every_scale_is_a_config_that_can_be_resolved(tmp_path):
  for name in study.EXPERIMENTS:
    for scale in study.scales(name, ROOT / "configs"):
      planned = study.prepare(name, tmp_path, ROOT / "configs", scale, range(3))
      assert len(planned.jobs) == 3 * len(planned.cells)
      negative = [cell.name for cell in planned.cells if cell.negative]
      assert negative == (["no batch norm"] if (name, scale) == ("e1", "standin") else [])


def test_jobs_are_gathered_by_shape_in_cohorts_of_nearly_equal_size(tmp_path):
  cells = [study.Cell(name, load("digits", name)) for name in ("base", "squared_error")]
  jobs = runner.plan(cells, range(5), tmp_path)
  cohorts = runner.cohorts_of(jobs, most=3)
  assert [[(job.cell, job.seed) for job in cohort] for cohort in cohorts] == [
    [("base", 0), ("base", 1)], [("base", 2), ("base", 3), ("base", 4)],
    [("squared_error", 0), ("squared_error", 1)],
    [("squared_error", 2), ("squared_error", 3), ("squared_error", 4)],
  ]  # fmt: skip
  alike = [study.Cell(name, load("digits")) for name in ("a b", "a/b")]
  with pytest.raises(UserError, match="would share"):
    runner.plan(alike, [0], tmp_path)
