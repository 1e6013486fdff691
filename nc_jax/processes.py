"""Several processes, on one host or on many, that run one command together.

Every process runs the same program on its own devices and with its own share of each batch.
Process 0 alone writes files and talks. The workdir lies on a file system that all share.
"""

import errno
import json
import os
import re
import socket
import sys
import threading
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from nc_jax.errors import UserError

# --help states the sum of the two.
LOST = 30  # seconds without a sign of life after which a process counts as dead, and the others end
FAREWELL = 10  # seconds that a process which failed waits for the others to fail alike
_JOIN = 300  # seconds in which all processes must have started
_MESSAGE = 2**16  # bytes


class Cluster(NamedTuple):
  """Where the processes meet. All None: whoever started them, such as SLURM, is asked."""

  coordinator: str | None = None  # HOST:PORT of process 0
  num_processes: int | None = None
  process_id: int | None = None


def cluster(
  distributed: bool, coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Cluster | None:
  """What the flags of these names say; None: one process. Raises UserError if they disagree."""
  given = Cluster(coordinator, num_processes, process_id)
  missing = [f"--{name}" for name, value in given._asdict().items() if value is None]
  if distributed:
    if len(missing) < 3:
      raise UserError("--distributed finds the processes by itself: leave out the other flags.")
    return given
  if len(missing) == 3:
    return None
  if missing:
    raise UserError(
      "--coordinator, --num_processes and --process_id go together; "
      f"{' and '.join(missing)} is missing."
    )
  port = re.fullmatch(r".+:(\d{1,5})", coordinator)
  if not port or not 0 < int(port[1]) < 2**16:
    raise UserError(f"--coordinator={coordinator}, but must be HOST:PORT of process 0.")
  if num_processes < 1:
    raise UserError(f"--num_processes={num_processes}, but must be >= 1.")
  if not 0 <= process_id < num_processes:
    raise UserError(f"--process_id={process_id}, but must be in 0 ... {num_processes - 1}.")
  return given


def initialise(where: Cluster):
  """Joins the others, before any device is touched.

  Raises UserError where no cluster is found, or the coordinator's port is taken. A process whose
  others do not come in time is ended by JAX.
  """
  if where.process_id == 0:
    _check_port(where.coordinator)
  try:
    jax.distributed.initialize(
      *where,
      # Where all is said, a SLURM step must not narrow the devices down to one for each process.
      cluster_detection_method="deactivate" if where.coordinator else None,
      initialization_timeout=_JOIN,
      heartbeat_timeout_seconds=LOST,
      shutdown_timeout_seconds=LOST,
    )
  except ValueError as error:
    raise UserError(
      f"--distributed: no cluster was found ({error}) Known are Cloud TPU, SLURM, Open MPI and "
      "GKE; elsewhere give --coordinator, --num_processes and --process_id."
    ) from error
  devices = Counter(device.process_index for device in jax.devices())
  if len(set(devices.values())) > 1:
    raise UserError(f"Every process needs as many devices; they have {sorted(devices.values())}.")


def _check_port(coordinator: str):
  """JAX dies of a segmentation fault where it cannot listen."""
  with socket.socket(socket.AF_INET) as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      listener.bind(("", int(coordinator.rpartition(":")[2])))
    except OSError as error:
      if error.errno in (errno.EADDRINUSE, errno.EACCES):
        raise UserError(
          f"--coordinator={coordinator}: cannot listen there: {error.strerror}."
        ) from error


def several() -> bool:
  """Whether this process has joined others. Touches no device."""
  return jax.distributed.is_initialized()


def is_first() -> bool:
  """Whether this process writes and talks."""
  return not several() or jax.process_index() == 0


def from_first(ask: Callable):
  """What `ask()` returns on process 0, which alone calls it; the others wait for it.

  A UserError that it raises there is raised everywhere. It returns what JSON can hold, and little.
  """
  if not several():
    return ask()
  answer = {}
  if is_first():
    try:
      answer = {"value": ask()}
    except UserError as error:
      answer = {"refused": str(error)[: _MESSAGE // 16]}  # JSON may take twelve bytes a character
  text = json.dumps(answer).encode()
  message = np.frombuffer(text.ljust(_MESSAGE), np.uint8)
  answer = json.loads(multihost_utils.broadcast_one_to_all(message).tobytes())
  if "refused" in answer:
    raise UserError(answer["refused"])
  return answer["value"]


def check_same(command: str):
  """Raises UserError on every process unless all were given the same command."""
  sums = _gather(zlib.crc32(command.encode()))
  for process, own in enumerate(sums):
    if own != sums[0]:
      raise UserError(f"Process {process} has another config or workdir than process 0.")


def check_shared(path: Path):
  """Raises UserError on every process unless all see a file that process 0 has written."""
  if not several():
    return
  deadline = time.monotonic() + LOST  # network file systems may tell late
  while not path.exists() and time.monotonic() < deadline:
    time.sleep(0.1)
  for process, seen in enumerate(_gather(path.exists())):
    if not seen:
      raise UserError(
        f"Process {process} does not see {path}, which process 0 has written: the workdir must lie "
        "on a file system that all processes share."
      )


def _gather(number: int) -> list[int]:
  """The number < 2^32 of each process, in order."""
  return np.ravel(multihost_utils.process_allgather(np.uint32(number))).tolist()


def end_together(run: Callable[[], int]) -> int:
  """Runs the program of this process and returns its exit status.

  A process of several that fails says why and is gone soon, without the usual goodbye: the others
  may wait for it inside a computation, for ever if it waited for them. If all fail alike, each
  ends with its own status; otherwise JAX ends the others, within `LOST` seconds, with a status
  that is not 0.
  """
  try:
    status = run()
  except BaseException:
    if not several():
      raise
    traceback.print_exc()
    status = 1
  if status and several():
    sys.stdout.flush()
    sys.stderr.flush()
    patience = threading.Timer(FAREWELL, os._exit, [status])
    patience.daemon = True
    patience.start()
    jax.distributed.shutdown()  # returns once all have come here
    os._exit(status)
  return status
