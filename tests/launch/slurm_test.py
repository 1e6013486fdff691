"""SLURM, which calls the script as a copy of it."""

import re
import shlex
import shutil
import signal

import pytest

from tests.launch.bench import ARGUMENTS, AWKWARD, LAUNCH, UNTIL_SIGTERM, Bench, until

# A task that saves when SIGTERM comes, and what sends it.
TASK = f'echo $$ >"$BENCH/task"; {UNTIL_SIGTERM}'
SCANCEL = 'kill -TERM "$(<"$BENCH/task")"'


@pytest.fixture
def cluster(bench) -> Bench:
  """Calls the script as sbatch does: a copy of it, with what its own lines ask for."""
  options = re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", (LAUNCH / "slurm.sbatch").read_text(), re.M)
  for key, value in options:
    bench.env[f"SLURM_{key.upper().replace('-', '_')}"] = value
  bench.env["SLURM_JOB_ID"] = "7"
  for name, body in (("srun", ""), ("scancel", SCANCEL), ("scontrol", "")):
    bench.stand_in(name, body)
  shutil.copy(LAUNCH / "slurm.sbatch", bench.folder / "slurm_script")
  return bench


SRUN = ["srun", "--wait=120", "--cpus-per-task=8", ".venv/bin/python", "-u", "-m", "nc_jax.main"]


def test_slurm_runs_one_task_a_gpu(cluster):
  asked = cluster.env
  assert asked["SLURM_NTASKS_PER_NODE"] == asked["SLURM_GPUS_PER_NODE"] == "8"
  assert asked["SLURM_SIGNAL"].startswith("B:USR1@") and "SLURM_REQUEUE" in asked
  out, _ = cluster.call("slurm.sbatch", "--dry-run", *AWKWARD)
  assert shlex.split(out) == [*SRUN, *AWKWARD, "--distributed"] and not cluster.calls()
  cluster.call(str(cluster.folder / "slurm_script"), *AWKWARD)
  assert cluster.calls() == [[*SRUN, *AWKWARD, "--distributed"]]


def test_slurm_saves_and_queues_the_job_again_when_its_time_is_over(cluster):
  cluster.stand_in("srun", TASK)
  job = cluster.start("slurm.sbatch", *ARGUMENTS)
  until((cluster.folder / "task").exists)
  job.send_signal(signal.SIGUSR1)
  assert job.wait(timeout=20) == 143
  assert cluster.calls("scancel") == [["scancel", "--signal=TERM", "7"]]
  assert cluster.calls("scontrol") == [["scontrol", "requeue", "7"]]


@pytest.mark.parametrize("task, status", [("exit 3", 3), ("exit 143", 143), ("exit 0", 0)])
def test_slurm_leaves_the_queue_alone_when_the_job_ends_by_itself(cluster, task, status):
  cluster.stand_in("srun", task)
  cluster.call("slurm.sbatch", *ARGUMENTS, expect=status, GRACE="0")
  assert not cluster.calls("scontrol")
