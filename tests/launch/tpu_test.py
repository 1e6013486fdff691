"""Cloud TPUs: the exact commands in dry runs, and whole runs on a stand-in for the cloud."""

import pytest

from tests.configs import ROOT
from tests.launch.bench import ARGUMENTS, AWKWARD, UNTIL_SIGTERM, Bench, until

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
