"""Several virtual devices on one CPU, without a deadlock."""

import os
import re


def asked_for() -> int:
  """Virtual CPU devices that the environment asks for; 0 if it does not."""
  flags = os.environ.get("XLA_FLAGS", "")
  found = re.search(r"xla_force_host_platform_device_count=(\d+)", flags)
  return int(found[1]) if found else int(os.environ.get("JAX_NUM_CPU_DEVICES") or 0)


def one_per_core():
  """Makes a device of each core of a CPU, unless the environment asks for another number.

  For programs whose devices never wait for one another, and which need no more than a thread for
  each. Has no effect on accelerators, nor once JAX has touched a device.
  """
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  if not asked_for():
    flag = f"--xla_force_host_platform_device_count={cores}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
  os.environ.setdefault("PJRT_NPROC", str(max(cores, asked_for())))


def give_threads(count: int):
  """Gives XLA two threads for each virtual CPU device, without which its collectives deadlock.

  Devices and dispatch share one thread pool, sized by PJRT_NPROC (openxla DefaultThreadPoolSize).
  Has no effect once JAX has touched a device.
  """
  if count > 1:
    os.environ.setdefault("PJRT_NPROC", str(2 * count))
