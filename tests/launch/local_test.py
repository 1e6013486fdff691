"""This machine: all its devices, virtual ones, several processes."""

import os
import signal
import time

import pytest

from tests.launch.bench import ARGUMENTS, AWKWARD, UNTIL_SIGTERM, until


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


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGHUP])
def test_local_processes_may_save_when_the_terminal_says_so(bench, sent):
  """A terminal tells the whole group: the script, what it waits by, and what prints."""
  bench.stand_in("python", f"{UNTIL_SIGTERM.replace('exit', 'echo saved; exit')}")
  process = bench.start("local.sh", "--processes=2", *ARGUMENTS, session=True)
  until(lambda: len(bench.calls()) == 2)
  time.sleep(0.2)  # until they wait for it
  os.killpg(process.pid, sent)
  out, _ = process.communicate(timeout=20)
  assert process.returncode == 143
  assert sorted(out.splitlines()) == ["[0] saved", "[1] saved"]


def test_local_processes_may_save_when_the_script_is_stopped(bench):
  bench.stand_in("python", f"{UNTIL_SIGTERM.replace('exit', 'echo saved; exit')}")
  process = bench.start("local.sh", "--processes=2", *ARGUMENTS)
  until(lambda: len(bench.calls()) == 2)
  time.sleep(0.2)  # until they wait for it
  process.send_signal(signal.SIGTERM)
  out, _ = process.communicate(timeout=20)
  assert process.returncode == 143
  assert sorted(out.splitlines()) == ["[0] saved", "[1] saved"]
