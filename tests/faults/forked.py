"""The command, many times over, in processes that start in no time.

One process imports everything and starts no thread, nor any device; each run is forked from it, and
is from there on what `python -m nc_jax.main` is. Started as a script, this file is that process.
"""

import contextlib
import json
import os
import subprocess
import sys
from typing import NamedTuple

from tests.configs import ROOT


class Ended(NamedTuple):
  status: int  # -9 after kill -9
  said: str  # stdout and stderr


class Starter:
  """Starts runs, one at a time. As a context: no process is left."""

  def __init__(self, log):
    self._log = log
    self._process = subprocess.Popen(
      [sys.executable, "-m", "tests.faults.forked"],
      cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
      env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._process.kill()
    self._process.communicate()

  def start(self, *arguments) -> int:
    """Begins a run; returns its process id. `end` must follow."""
    print(json.dumps([list(map(str, arguments)), str(self._log)]), file=self._process.stdin)
    self._process.stdin.flush()
    return int(self._process.stdout.readline())

  def end(self) -> Ended:
    """Waits for the run."""
    return Ended(int(self._process.stdout.readline()), self._log.read_text())

  def run(self, *arguments) -> Ended:
    self.start(*arguments)
    return self.end()


def serve():
  from nc_jax import main, plots  # noqa: F401
  from nc_jax.training import building, loop  # noqa: F401

  if len(os.listdir("/proc/self/task")) > 1:
    raise RuntimeError("Threads do not survive a fork.")
  for line in sys.stdin:
    arguments, log = json.loads(line)
    child = os.fork()
    if not child:
      with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
      os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
      sys.exit(main.main(["nc_jax", *arguments]))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
  with contextlib.suppress(KeyboardInterrupt):
    serve()
