"""The machine under measurement: its devices, cores and memory."""

import datetime
import os
import pathlib
import platform

import jax
import numpy as np

from nc_jax import virtual_devices
from nc_jax.errors import UserError


def devices(count: int | None) -> list:
  """The first `count` devices, all if None; virtual ones where only the CPU is at hand.

  Also settles what must be settled before JAX first touches a device.
  """
  jax.config.update("jax_enable_compilation_cache", False)  # or compile times mean nothing
  # Contenders run in processes of their own and want their share of an accelerator's memory.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  asked = virtual_devices.asked_for()
  if count and count > 1 and not asked:
    jax.config.update("jax_num_cpu_devices", count)
    asked = count
  virtual_devices.give_threads(asked)
  found = jax.devices()
  if count and count > len(found):
    raise UserError(f"--devices={count}: there are {len(found)} ({found[0].device_kind}).")
  return found[:count]


def facts(devices: list) -> dict[str, str]:
  """What was measured, when and with what."""
  return {
    "date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
    "machine": name(),
    "threads": str(cores()),
    "devices": f"{len(devices)} x {devices[0].device_kind}",
    "jax": jax.__version__,
    "numpy": np.__version__,
  }


def name() -> str:
  """The processor's model, which `platform` does not know on Linux."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
  except (OSError, StopIteration):
    return platform.processor() or platform.machine()


def cores() -> int:
  """Cores this process may use; XLA, BLAS and torch each take one thread per core."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def load() -> float:
  """Processes that ran or waited during the last minute, this one included; nan if unknown."""
  return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def free_memory() -> int | None:
  """Bytes that may still be taken on the host: the machine's and the container's; None: unknown."""
  free = []
  try:
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    free += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    group = pathlib.Path("/sys/fs/cgroup")
    limit = (group / "memory.max").read_text().strip()
    if limit != "max":
      free.append(int(limit) - int((group / "memory.current").read_text()))
  except OSError:
    pass  # another system, or a container without limits of its own
  return min(free, default=None)


def free_device_memory(device) -> int | None:
  """Bytes free on one device; None where it does not say, as CPUs do not."""
  stats = device.memory_stats() or {}
  if "bytes_limit" not in stats:
    return None
  return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
