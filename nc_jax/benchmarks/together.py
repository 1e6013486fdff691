"""Times runs of one config trained together, beside as many runs alone.

  python -m nc_jax.benchmark together --config=FILE[:VARIANT] [--config.KEY=VALUE ...]

The R runs differ in their seeds, and are built, fed and observed as `python -m nc_jax.experiments`
does it: on a CPU, spread over a virtual device of one thread per core. Beside them goes one run as
`python -m nc_jax.main` does it: on one device, on a CPU that of all threads, in a process of its
own. Calls take turns, A B A B, one process idle while the other works, and medians are printed;
every time is wall-clock time, results waited for. Compilation is listed apart; nothing is written
to a workdir. Where steps are slow, --config.optim.steps_per_call=N makes calls short.

The limit of "/ R alone" is the share of the runs on the fullest device, 1/n where n devices hold
equally many: less is only had if a device takes one step of several runs in less time than their
steps one by one. Other work on the machine takes its share: limit/devices, measured in the same
turns, is 1/n only where every device has a core of its own. Probes and intervals are left out.
"""

import argparse
import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable

import jax
import ml_collections

from nc_jax import command_line, settings, virtual_devices
from nc_jax.benchmarks import flags, jobs, machine, table, train
from nc_jax.benchmarks.timing import Timing, interleave
from nc_jax.console import reading
from nc_jax.errors import UserError
from nc_jax.training import building, loop
from nc_jax.training import together as training

BUDGET = 120.0  # s a group of interleaved calls may take; slow ones make fewer repeats
WINDOW = 0.5  # s a sample lasts at least; and two calls of steps: one is fed while the other runs

WHAT = {
  "limit/devices": "work of one thread on every device at once, relative to one device alone",
  "step/alone": "a training step of one run, fed as training feeds it",
  "step": "a step of all R runs together, likewise",
  "observation/alone": "every metric of every layer of one run, on all examples of all splits",
  "observation": "the same of all R runs, as many at once as there are devices",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(table.Timed):
  """One thing timed. None where a column makes no sense.

  Attributes:
    together: R, runs trained together; what is `alone` was measured in turns with them.
    devices_used: those that hold runs, or share one run's examples.
    median_s: seconds per step, or per observation, of all R runs; of one run if `alone`.
    examples_per_s: examples of all R runs.
    of_alone: median_s relative to R times that of the run alone; of limit/devices, relative to
      one device after the other.
    limit: of of_alone, if neither batching nor idle cores help: see `limit`.
    epoch_of_alone: the same as of_alone, of an epoch of steps and one observation of every run.
    job_of_alone: the same of all epochs and all observations that the config asks for.
  """

  together: int
  devices_used: int
  examples_per_s: float | None = None
  of_alone: float | None = None
  limit: float | None = None
  epoch_of_alone: float | None = None
  job_of_alone: float | None = None


HEADINGS = (
  f"{'':18}{'R':>5}{'devices':>9}{'compile':>10}{'median':>11}{'min':>11}{'max':>11}"
  f"{'examples/s':>12}{'/ R alone':>11}{'limit':>8}"
)


def add_arguments(parser: argparse.ArgumentParser):
  parser.add_argument("--config", metavar="FILE[:VARIANT]", help="such as configs/digits.py")
  parser.add_argument(
    "--runs", default="1,2,4,8", metavar="R,R", help="how many together (default 1,2,4,8)"
  )
  flags.add_arguments(parser, devices=False)


def run(arguments: argparse.Namespace) -> int:
  # As in nc_jax.experiments, and still in time; the run alone wants what was there before.
  environment = jobs.of_one_device(os.environ)
  os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
  virtual_devices.one_per_core()
  config = command_line.read_config(arguments.config, arguments.overrides)
  flags.check(arguments)
  sizes = numbers(arguments.runs)
  devices = machine.devices(None)
  request = [arguments.config, *arguments.overrides]
  with contextlib.ExitStack() as stack:
    if devices[0].platform == "cpu":
      alone = stack.enter_context(contextlib.closing(jobs.Remote(request, environment)))
      asked = alone.facts
    else:  # one process at a time may hold some accelerators
      experiment = alone_here(config)
      asked = train.describe(experiment, " ".join(request))
      alone = jobs.training(experiment)
    facts = machine.facts(devices)
    print(f"nc_jax together  {table.in_words(facts)}")
    print(table.in_words(asked))
    print(f"Medians of {arguments.repeats} samples in turns, fewer where noted.", end=" ")
    print(f"Load {machine.load():.1f} during the last minute.")
    for what, meaning in WHAT.items():
      print(f"  {what:18}{meaning}")
    print(f"\n{HEADINGS}", flush=True)
    rows = []
    for size in sizes:
      for row in timed(config, size, alone, arguments.repeats):
        print(to_line(row), flush=True)
        rows.append(row)
      if arguments.csv:
        table.write_csv(arguments.csv, rows, facts | asked)
  print(conclude(rows))
  return 0


def numbers(text: str) -> list[int]:
  """The numbers in "1,2,4", each once."""
  found = []
  for word in text.split(","):
    try:
      number = int(word)
    except ValueError as error:
      raise UserError(
        f"--runs={text}: {word!r} is not a whole number; write --runs=1,2,4."
      ) from error
    if number < 1:
      raise UserError(f"--runs={text}: must be at least 1.")
    found.append(number)
  return list(dict.fromkeys(found))


def alone_here(config) -> building.Experiment | training.Cohort:
  """One run on one device of this process.

  Where there are several, `building.build` would share each batch among all of them.
  """
  with reading() as progress:
    if jax.device_count() == 1:
      return building.build(config, progress)
    return training.build([""], [config], progress)


def build(config, size: int) -> training.Cohort:
  """So many runs of a config: its seed, and those that follow."""
  configs = []
  for number in range(size):
    own = ml_collections.ConfigDict(config.to_dict())
    own.seed = config.seed + number
    configs.append(settings.resolve(own))
  with reading() as progress:
    return training.build([f"run{number}" for number in range(size)], configs, progress)


def timed(config, size: int, alone: Callable, repeats: int) -> list[Row]:
  """The rows of so many runs together."""
  cohort = build(config, size)
  together = jobs.training(cohort)
  spinning = {
    "limit/device": jobs.spinning(cohort.devices[:1]),
    "limit/devices": jobs.spinning(cohort.devices),
  }
  steps = {"step/alone": alone, "step": together}
  timings = in_turns("step", spinning | steps, repeats)
  observations = {"observation/alone": alone, "observation": together}
  timings |= in_turns("observation", observations, repeats)
  return rows_of(cohort, timings)


def in_turns(what: str, cases: dict[str, Callable], repeats: int) -> dict[str, Timing]:
  """Seconds for which each job does `what` once: of steps, a call of the program."""
  least = 2 if what == "step" else 1
  times = {name: max(least, round(WINDOW / job.seconds[what])) for name, job in cases.items()}
  timings = interleave(
    {name: functools.partial(job, what, times[name]) for name, job in cases.items()},
    repeats,
    BUDGET,
  )
  return {
    name: Timing(
      timings[name].scaled(1 / times[name]).samples, job.compiling[what], job.recompiled[what]
    )
    for name, job in cases.items()
  }


def rows_of(cohort: training.Cohort, timings: dict[str, Timing]) -> list[Row]:
  """What follows from the seconds of each: of "step" and "step/alone", of a call's many steps."""
  size, spread, per_epoch = len(cohort.runs), len(cohort.devices), cohort.steps_per_epoch
  per_call = len(next(loop.calls(cohort, 0)))
  timings = timings | {what: timings[what].scaled(1 / per_call) for what in ("step", "step/alone")}
  median = {what: timing.median for what, timing in timings.items()}

  def of_alone(steps: int, observations: int) -> float:
    """So many of both, of all runs together, relative to R times those of one alone."""
    all_runs = steps * median["step"] + observations * median["observation"]
    one = steps * median["step/alone"] + observations * median["observation/alone"]
    return all_runs / (size * one)

  batch = cohort.config.data.batch_size
  observed = sum(len(feed.split) for feed in cohort.observed[0].splits.values())
  epochs = cohort.config.optim.total_epochs
  examples = {
    "step/alone": batch,
    "step": size * batch,
    "observation/alone": observed,
    "observation": size * observed,
  }
  devices = {
    "limit/devices": spread,
    "step": spread,
    "observation": len(cohort.measurers),
  }
  ratios = {
    "limit/devices": {"of_alone": median["limit/devices"] / (spread * median["limit/device"])},
    "step": {
      "of_alone": of_alone(1, 0),
      "limit": limit(size, spread),
      "epoch_of_alone": of_alone(per_epoch, 1),
      "job_of_alone": of_alone(epochs * per_epoch, len(cohort.observe_epochs)),
    },
    "observation": {"of_alone": of_alone(0, 1)},
  }
  return [
    Row.of(
      what,
      timings[what],
      together=size,
      devices_used=devices.get(what, 1),
      examples_per_s=examples[what] / median[what] if what in examples else None,
      **ratios.get(what, {}),
    )
    for what in WHAT
  ]


def limit(size: int, devices: int) -> float:
  """The share of the runs that the fullest device holds: 1/n if n devices hold equally many."""
  return -(-size // devices) / size


def to_line(row: Row) -> str:
  """A row of the printed table, under HEADINGS."""
  ratio = lambda value: "-" if value is None else f"{value:.2f}"
  text = (
    f"{row.what:18}{row.together:>5}{row.devices_used:>9}{row.compile_s:>8.2f} s"
    f"{table.seconds(row.median_s):>11}{table.seconds(row.min_s):>11}"
    f"{table.seconds(row.max_s):>11}{table.number(row.examples_per_s):>12}"
    f"{ratio(row.of_alone):>11}{ratio(row.limit):>8}"
  )
  return f"{text}  {', '.join(table.reservations(row))}".rstrip()


def conclude(rows: list[Row]) -> str:
  """What follows from the rows, in words."""
  lines = [
    "",
    "Relative to as many runs alone, one after another; the aim on a CPU is 0.5 at most:",
  ]
  found = {(row.together, row.what): row for row in rows}
  for size in dict.fromkeys(row.together for row in rows):
    step, cores = found[size, "step"], found[size, "limit/devices"]
    lines.append(
      f"{size:>4} together: a step {step.of_alone:.2f} (limit {step.limit:.2f}; the machine gave "
      f"{cores.of_alone:.2f}), an epoch and one observation {step.epoch_of_alone:.2f}, all epochs "
      f"and observations {step.job_of_alone:.2f}"
    )
  return "\n".join(lines)
