"""The command as users type it, in processes of its own."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nc_jax import writers
from tests.configs import ROOT, TINY

PNG = b"\x89PNG\r\n\x1a\n"


def command(workdir, *arguments, config="configs/digits.py", **settings):
  flags = [f"--config.{key}={value}" for key, value in (TINY | settings).items()]
  config = [f"--config={config}"] if config else []
  return [sys.executable, "-m", "nc_jax.main", *config, f"--workdir={workdir}", *flags, *arguments]


def environment(devices):
  flags = f"--xla_force_host_platform_device_count={devices}"
  known = {key: value for key, value in os.environ.items() if key != "PJRT_NPROC"}
  return known | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def call(command, devices=1, expect=0):
  done = subprocess.run(
    command, cwd=ROOT, env=environment(devices), capture_output=True, text=True, timeout=240
  )
  assert done.returncode == expect, done.stderr
  assert "Traceback" not in done.stderr
  return done


def contents(folder: pathlib.Path):
  return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A finished tiny run: (workdir, what the command printed)."""
  workdir = tmp_path_factory.mktemp("runs") / "one"
  return workdir, call(command(workdir))


def test_everything_promised_lies_in_the_workdir(finished):
  workdir, done = finished
  config = json.loads((workdir / "config.json").read_text())
  assert config["model"]["width"] == 24
  rows = writers.read_csv(workdir / "metrics.csv")
  assert rows[-1]["epoch"] == 4
  board = EventAccumulator(str(workdir / "tensorboard"))
  board.Reload()
  scalars = [(e.step, e.value) for e in board.Scalars("train/penultimate/nc1/pinv")]
  wanted = [
    (r["step"], pytest.approx(r["value"], rel=1e-6))
    for r in rows
    if (r["split"], r["layer"], r["key"]) == ("train", "penultimate", "nc1/pinv")
  ]
  assert scalars == wanted
  for name in ("collapse.png", "nc1_to_nc4.png", "layers.png", "class_means.png"):
    assert (workdir / name).read_bytes().startswith(PNG)
  verdict = json.loads((workdir / "verdict.json").read_text())
  assert len(verdict["checks"]) == 4 and verdict["final"]["epoch"] == 4
  assert (workdir / "verdict.txt").read_text() in done.stdout
  (made_with,) = json.loads((workdir / "versions.json").read_text())
  assert (made_with["devices"], made_with["processes"]) == (1, 1)
  assert sorted(p.name for p in (workdir / "checkpoints").iterdir())[-1] == "32"


def test_without_a_terminal_progress_is_a_few_plain_lines(finished):
  lines = finished[1].stderr.splitlines()
  assert any(re.match(r"epoch 4/4  loss \d.*error \d.*NC1 \d.*steps/s", line) for line in lines)
  assert len(lines) < 20
  assert "\r" not in finished[1].stderr and "\x1b" not in finished[1].stderr


def test_a_finished_workdir_says_so_and_stays_as_it_is(finished):
  workdir, _ = finished
  before = contents(workdir)
  done = call(command(workdir))
  assert "finished" in done.stdout
  assert contents(workdir) == before


def test_a_workdir_of_another_config_is_refused_with_the_keys_that_differ(finished):
  workdir, _ = finished
  before = contents(workdir)
  done = call(command(workdir, **{"optim.total_epochs": 5, "seed": 7}), expect=2)
  assert "optim.total_epochs: 4 -> 5; seed: 0 -> 7" in done.stderr
  assert len(done.stderr.splitlines()) == 1
  assert contents(workdir) == before


def test_the_saved_config_can_be_run_again(finished, tmp_path):
  workdir, _ = finished
  again = [
    sys.executable, "-m", "nc_jax.main", f"--config={workdir}/config.json",
    f"--workdir={tmp_path / 'again'}",
  ]  # fmt: skip
  call(again)
  assert (tmp_path / "again/metrics.csv").read_bytes() == (workdir / "metrics.csv").read_bytes()


def test_observing_again_gives_the_numbers_of_the_run(finished):
  workdir, _ = finished
  before = contents(workdir)
  only = [sys.executable, "-m", "nc_jax.main", f"--workdir={workdir}", "--observe_only"]
  call(only)
  again = writers.read_csv(workdir / "observed.csv")
  original = writers.read_csv(workdir / "metrics.csv")
  assert again == [r for r in original if r["epoch"] >= 2]  # three checkpoints are kept
  assert {p: c for p, c in contents(workdir).items() if p.name != "observed.csv"} == before
  call([*only, "--config.observe.layers=layer1"])
  assert call([*only, "--config.model.width=3"], expect=2).stderr.count("model.width: 24 -> 3") == 1


def test_two_devices_give_the_curve_of_one(finished, tmp_path):
  workdir = tmp_path / "two"
  call(command(workdir), devices=2)
  one, two = (writers.read_csv(w / "metrics.csv") for w in (finished[0], workdir))
  assert [tuple(r.values())[:5] for r in one] == [tuple(r.values())[:5] for r in two]
  for a, b in zip(one, two, strict=True):
    # Sums over two halves round differently, and 32 steps of training amplify that.
    assert a["value"] == pytest.approx(b["value"], rel=5e-3, abs=1e-4), (a, b)


def test_sigterm_saves_and_says_one_sentence(tmp_path):
  workdir = tmp_path / "stopped"

  def until_sigterm(line):
    """What is said, the signal being sent after a line that begins so."""
    process = subprocess.Popen(
      command(workdir, **{"optim.total_epochs": 3000}),
      cwd=ROOT,
      env=environment(1),
      stderr=subprocess.PIPE,
      text=True,
    )
    said = []
    while not said or not said[-1].startswith(line):
      said.append(next(process.stderr))
    process.send_signal(signal.SIGTERM)
    said.append(process.communicate(timeout=60)[1])
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in "".join(said)
    return "".join(said)

  said = until_sigterm("epoch 1/")
  assert re.search(r"Stopped by SIGTERM in epoch \d+ \(step \d+\) and saved; the same", said)
  # It goes on with another JAX, which is said, and nothing more.
  path = workdir / "versions.json"
  (entry,) = json.loads(path.read_text())
  path.write_text(json.dumps([entry | {"jax": "0.0.1"}]))
  assert "What is there was made with jax 0.0.1 (now " in until_sigterm("Going on from the")
  assert [each["jax"] for each in json.loads(path.read_text())] == ["0.0.1", entry["jax"]]


def test_a_second_run_in_the_same_workdir_is_refused(tmp_path):
  workdir = tmp_path / "shared"
  long = command(workdir, **{"optim.total_epochs": 3000})
  first = subprocess.Popen(long, cwd=ROOT, env=environment(1), stderr=subprocess.PIPE, text=True)
  try:
    next(line for line in first.stderr if line.startswith("epoch 0/"))
    assert "another run is writing there now" in call(long, expect=2).stderr
  finally:
    first.kill()
    first.communicate()


def test_a_loss_that_is_not_finite_is_a_failed_run(tmp_path):
  done = call(
    command(tmp_path / "nan", **{"optim.peak_lr": 1e18, "model.batch_norm": False}), expect=1
  )
  assert re.search(r"nc_jax: The loss is (nan|inf) at step \d+, epoch \d", done.stderr)


def test_a_folder_of_other_things_is_not_a_workdir(tmp_path):
  (tmp_path / "thesis.tex").write_text("x")
  done = call(command(tmp_path), expect=2)
  assert "holds files, but no run" in done.stderr
  assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_help_names_every_flag_and_setting():
  from nc_jax.settings import SETTINGS

  text = call([sys.executable, "-m", "nc_jax.main", "--help"]).stdout
  for word in ("--config", "--workdir", "--observe_only", "Exit status", *SETTINGS):
    assert word in text
