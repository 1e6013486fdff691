"""Work that takes turns with other work, here or in a process of its own."""

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nc_jax import command_line
from nc_jax.benchmarks import timing, train
from nc_jax.console import reading
from nc_jax.errors import RunError, UserError, exit_status
from nc_jax.training import building, together
from nc_jax.training.steps import AXIS

BUDGET = 120.0  # s that the first calls of a kind may take
ATTRIBUTES = ("compiling", "seconds", "recompiled")  # of a Job
LINKS = 1000  # of the chain that keeps a thread busy


class Job:
  """What can be done so many times: job("step", 20).

  Args:
    does: functions of a number of times; what they return is waited for.

  Attributes, all by what is done:
    compiling: what tracing and compiling took in the first call.
    seconds: of a later call for a single time, roughly.
    recompiled: programs compiled in later calls.
  """

  def __init__(self, does: dict[str, Callable[[int], Any]]):
    self._does = does
    first = {
      what: timing.interleave({what: functools.partial(do, 1)}, 1, BUDGET)[what]
      for what, do in does.items()
    }
    self.compiling = {what: first[what].compiling for what in does}
    self.seconds = {what: first[what].median for what in does}
    self.recompiled = {what: first[what].recompiled for what in does}

  def __call__(self, what: str, times: int):
    before = timing.programs()
    jax.block_until_ready(self._does[what](times))
    self.recompiled[what] += timing.programs() - before


def training(built: building.Experiment | together.Cohort) -> Job:
  """Of one run, or of runs trained together, as `loop.train` does it.

  "step": calls of the program, of many steps each; "observation": every run is observed, but
  without probes and intervals, which belong to few epochs.
  """
  own, batches = train.Training(built), train.fed(built)

  def observe(times: int):
    for _ in range(times):
      for _ in built.observe(own.state, -1, range(len(built.runs))):
        pass

  return Job({"step": lambda times: own.run(batches, times), "observation": observe})


def spinning(devices: Sequence) -> Job:
  """Work that keeps one thread of each device busy, and does not gain from a second one."""
  chain = lambda x: jax.lax.fori_loop(0, LINKS, lambda _, y: jnp.sin(y) + x, x)
  program = jax.pmap(chain, devices=devices)
  mesh = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))
  x = jax.device_put(np.ones((len(devices), 1024), np.float32), mesh)

  def spin(times: int):
    for _ in range(times):
      jax.block_until_ready(program(x))

  return Job({"step": spin})


class Remote:
  """The Job of training one run, in a process of its own that waits idle until it is its turn.

  `facts` is what `train.describe` says of it. Times are taken here, around a call and its answer:
  some 0.1 ms, which many calls make small.

  Args:
    arguments: --config and what is said to differ from it.
    environment: of the process.

  Raises UserError or RunError with its last words if the process ends.
  """

  def __init__(self, arguments: list[str], environment: dict[str, str]):
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    self._errors = tempfile.TemporaryFile("w+")
    self._process = subprocess.Popen(
      [sys.executable, "-P", "-m", __name__, *arguments],
      env=environment | {"PYTHONPATH": path},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
      text=True,
    )
    try:
      for name, value in self._answer().items():
        setattr(self, name, value)  # facts, and the attributes of a Job
    except BaseException:
      self.close()
      raise

  def __call__(self, what: str, times: int):
    try:
      print(json.dumps([what, times]), file=self._process.stdin, flush=True)
    except BrokenPipeError:
      pass  # its last words are better
    self.recompiled = self._answer()

  def close(self):
    self._process.kill()
    self._process.communicate()
    self._errors.close()

  def _answer(self):
    line = self._process.stdout.readline()
    if not line:
      self._process.wait()
      self._errors.seek(0)
      words = self._errors.read().strip().splitlines()[-1:] or ["no word"]
      words, status = words[0].removeprefix("nc_jax: "), self._process.returncode
      if status == 2:
        raise UserError(words)
      raise RunError(f"The process of the run alone ended with {status}: {words}")
    return json.loads(line)


def of_one_device(environment: dict[str, str]) -> dict[str, str]:
  """The same environment, but for the virtual CPU devices that it asks for."""
  environment = dict(environment)
  environment.pop("JAX_NUM_CPU_DEVICES", None)
  flags = environment.get("XLA_FLAGS", "")
  flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", flags)
  return environment | {"XLA_FLAGS": flags.strip()}


def main(argv: list[str]):
  """Carries out each line of stdin, [what, times] in JSON, and answers with `recompiled`."""
  os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in nc_jax.main, and still in time
  jax.config.update("jax_enable_compilation_cache", False)
  answers, sys.stdout = sys.stdout, sys.stderr  # whatever a reader of data may print
  config = command_line.read_config(argv[1], argv[2:])
  with reading() as progress:
    experiment = building.build(config, progress)
  facts = train.describe(experiment, " ".join(argv[1:]))
  job = training(experiment)
  tell = lambda answer: print(json.dumps(answer), file=answers, flush=True)
  tell({"facts": facts} | {name: getattr(job, name) for name in ATTRIBUTES})
  for line in sys.stdin:
    job(*json.loads(line))
    tell(job.recompiled)


if __name__ == "__main__":
  sys.exit(exit_status(main, sys.argv, "nothing is lost"))
