"""Times one device, two, four and so on, where each device has the same work.

  python -m nc_jax.benchmark scaling --config=FILE[:VARIANT] [--config.KEY=VALUE ...]

Every device takes the share of config.data.batch_size that it has when all devices take part, and
as many rows of features. If devices were all that counts, n of them would do n times what one does:
`ideal` is n times the rate of one device of this run, `efficiency` what is had of it. A step
without averaging tells what the averaging costs from what devices take from one another.

Without accelerators there is a virtual device for each core, and never more. They share memory,
caches and threads, and one alone may use cores of the others, so that the ideal is out of reach:
limit/devices, work of one thread each that needs no memory, is what the machine gives at best.
Counts take turns, 1 2 4 1 2 4, and medians are printed; every time is wall-clock time, results
waited for. The examples of a call lie on the devices. Nothing is written to a workdir.
"""

import argparse
import dataclasses
import itertools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import nc_jax as nc
from nc_jax import command_line, virtual_devices
from nc_jax.benchmarks import contenders, flags, jobs, machine, table, train
from nc_jax.benchmarks.timing import Timing
from nc_jax.benchmarks.together import in_turns
from nc_jax.console import reading
from nc_jax.errors import UserError
from nc_jax.training import building
from nc_jax.training.data import Dataset
from nc_jax.training.feeds import Feed
from nc_jax.training.steps import AXIS, make_apply, make_train, replicate

ROWS = {"cpu": 8192}  # features of a device
MANY_ROWS = 262_144  # the same on an accelerator
WIDTH, CLASSES = 512, 10

WHAT = {
  "limit/devices": "work of one thread of each device, which communicates nothing",
  "step/apart": "training steps of each device for itself: nothing is averaged",
  "step": "training steps: gradients and batch statistics are averaged over the devices",
  "accumulate": f"nc.accumulate of {WIDTH} features and {CLASSES} classes, rows split over devices",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(table.Timed):
  """One thing timed on so many devices. None where a column makes no sense.

  Attributes:
    devices_used: which share the work.
    median_s: seconds per step, or per call.
    examples_per_s: of all devices together.
    ideal_per_s: the rate of one device, times the devices.
    efficiency: examples_per_s / ideal_per_s, which is the time on one device over that on these.
    averaging: of `step`: (step - step/apart) / step.
  """

  devices_used: int
  efficiency: float
  examples_per_s: float | None = None
  ideal_per_s: float | None = None
  averaging: float | None = None


HEADINGS = (
  f"{'':15}{'devices':>8}{'compile':>10}{'median':>11}{'min':>11}{'max':>11}"
  f"{'examples/s':>12}{'ideal':>12}{'efficiency':>12}"
)


def add_arguments(parser: argparse.ArgumentParser):
  parser.add_argument("--config", metavar="FILE[:VARIANT]", help="such as configs/digits.py")
  flags.add_arguments(parser)
  parser.add_argument(
    "--chart", type=pathlib.Path, metavar="FILE", help="draw efficiencies to FILE.png, .svg or .pdf"
  )


def run(arguments: argparse.Namespace) -> int:
  os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in nc_jax.main, and still in time
  config = command_line.read_config(arguments.config, arguments.overrides)
  flags.check(arguments)
  flags.check_chart(arguments.chart)
  devices = these(arguments.devices)
  with reading() as progress:
    dataset = building.load_data(config, progress)
  building.check_batch(config, len(dataset.train), len(devices))
  facts = machine.facts(devices)
  asked = {
    "config": " ".join([arguments.config, *arguments.overrides]),
    "data": config.data.name,
    "model": config.model.name,
    "dtype": config.model.precision or "float32",
    "batch_per_device": config.data.batch_size // len(devices),
    "rows_per_device": rows_of_a_device(devices),
  }
  print(f"nc_jax scaling  {table.in_words(facts)}")
  print(table.in_words(asked))
  print(f"Medians of {arguments.repeats} samples in turns, fewer where noted.", end=" ")
  print(f"Load {machine.load():.1f} during the last minute.")
  if devices[0].platform == "cpu":
    print(f"Virtual devices: {len(devices)} share {machine.cores()} cores and their memory.")
  for what, meaning in WHAT.items():
    print(f"  {what:15}{meaning}")
  print(f"\n{HEADINGS}", flush=True)
  rows = []
  for row in timed(config, dataset, devices, arguments.repeats):
    print(to_line(row), flush=True)
    rows.append(row)
  print(conclude(rows))
  if arguments.csv:
    table.write_csv(arguments.csv, rows, facts | asked)
  if arguments.chart:
    from nc_jax.benchmarks import scaling_chart

    scaling_chart.draw(arguments.chart, rows, table.in_words(facts))
  return 0


def these(most: int | None) -> list:
  """Accelerators, or a virtual CPU device for each core; the first `most` of them, None: all."""
  cores = machine.cores()
  virtual_devices.give_threads(virtual_devices.asked_for() or cores)  # they wait for one another
  virtual_devices.one_per_core()
  found = machine.devices(None)
  if found[0].platform == "cpu":
    found = found[:cores]
  if most and most > len(found):
    raise UserError(f"--devices={most}: there are {len(found)} ({found[0].device_kind}).")
  return found[:most]


def counts(devices: int) -> list[int]:
  """1, 2, 4, ... below the number of devices, and that."""
  return [2**i for i in range(devices.bit_length()) if 2**i < devices] + [devices]


def rows_of_a_device(devices: list) -> int:
  return ROWS.get(devices[0].platform, MANY_ROWS)


def timed(config, dataset: Dataset, devices: list, repeats: int):
  """The rows as they are measured."""
  some = {number: devices[:number] for number in counts(len(devices))}
  share, steps = config.data.batch_size // len(devices), steps_of_a_call(config, dataset)
  features, labels, *_ = contenders.examples(
    rows_of_a_device(devices) * len(devices), WIDTH, CLASSES
  )
  makers = {
    "limit/devices": jobs.spinning,
    "step/apart": lambda own: training(config, dataset, own, share, steps, None),
    "step": lambda own: training(config, dataset, own, share, steps, AXIS),
    "accumulate": lambda own: accumulating(features, labels, own, rows_of_a_device(devices)),
  }
  examples = {"step/apart": share, "step": share, "accumulate": rows_of_a_device(devices)}
  apart = {}
  for what, make in makers.items():
    timings = in_turns("step", {number: make(own) for number, own in some.items()}, repeats)
    if what.startswith("step"):
      timings = {number: timing.scaled(1 / steps) for number, timing in timings.items()}
    rows = rows_of(what, timings, examples.get(what))
    if what == "step/apart":
      apart = {row.devices_used: row.median_s for row in rows}
    if what == "step":
      rows = [
        dataclasses.replace(row, averaging=1 - apart[row.devices_used] / row.median_s)
        for row in rows
      ]
    yield from rows


def steps_of_a_call(config, dataset: Dataset) -> int:
  """As many as the longest call of training has."""
  per_epoch = len(dataset.train) // config.data.batch_size
  return -(-per_epoch // -(-per_epoch // config.optim.steps_per_call))


def training(
  config, dataset: Dataset, devices: list, share: int, steps: int, axis_name: str | None
) -> jobs.Job:
  """Calls of so many steps each, on batches of `share` examples a device.

  axis_name: None: nothing is averaged. The devices then get the same examples, so that their
  states stay alike.
  """
  model = building.build_network(config, dataset, axis_name)
  optimiser = building.build_optimiser(config, len(dataset.train) // config.data.batch_size)
  feed = Feed(dataset.train, building.is_resident(config, dataset), devices)
  program = make_train(
    make_apply(model, jnp.dtype(config.model.precision or "float32")),
    building.build_loss(config, dataset, axis_name),
    optimiser,
    feed.axis,
    building.augmentation(config.data, dataset),
    config.seed,
    config.optim.accumulate or 1,
    axis_name,
    devices,
  )
  shape = steps, 1 if axis_name is None else len(devices), share
  index = np.random.default_rng(0).integers(len(dataset.train), size=shape, dtype=np.int32)
  batch = feed(np.broadcast_to(index, (steps, len(devices), share)))
  batch = train.placed(batch, feed.axis, devices)
  state = replicate(jax.device_get(building.untrained(model, optimiser, config, dataset)), devices)

  def run(times: int):
    nonlocal state
    for _ in itertools.repeat(None, times):
      state, sums = program(state, *batch)
    return sums

  return jobs.Job({"step": run})


def accumulating(features: np.ndarray, labels: np.ndarray, devices: list, rows: int) -> jobs.Job:
  """Moments of so many rows a device, which lie there."""
  place = NamedSharding(Mesh(np.array(devices), ("examples",)), PartitionSpec("examples"))
  number = rows * len(devices)
  x, y = jax.device_put((features[:number], labels[:number]), place)
  nothing = nc.ClassMoments.empty(CLASSES, WIDTH)

  def run(times: int):
    for _ in range(times):
      jax.block_until_ready(nc.accumulate(nothing, x, y))

  return jobs.Job({"step": run})


def rows_of(what: str, timings: dict[int, Timing], examples: int | None) -> list[Row]:
  """Rows from the seconds on each number of devices; `examples` are those of one device."""
  one = timings[1].median
  rate = lambda seconds, number: examples and number * examples / seconds
  return [
    Row.of(
      what,
      timing,
      devices_used=number,
      efficiency=one / timing.median,
      examples_per_s=rate(timing.median, number),
      ideal_per_s=rate(one, number),
    )
    for number, timing in timings.items()
  ]


def to_line(row: Row) -> str:
  """A row of the printed table, under HEADINGS."""
  text = (
    f"{row.what:15}{row.devices_used:>8}{row.compile_s:>8.2f} s{table.seconds(row.median_s):>11}"
    f"{table.seconds(row.min_s):>11}{table.seconds(row.max_s):>11}"
    f"{table.number(row.examples_per_s):>12}{table.number(row.ideal_per_s):>12}"
    f"{table.percent(row.efficiency):>12}"
  )
  return f"{text}  {', '.join(table.reservations(row))}".rstrip()


def conclude(rows: list[Row]) -> str:
  """What follows from the rows, in words."""
  found = {(row.what, row.devices_used): row for row in rows}
  lines = ["", "Of n times the rate of one device:"]
  for number in dict.fromkeys(row.devices_used for row in rows if row.devices_used > 1):
    of = {what: table.percent(found[what, number].efficiency) for what in WHAT}
    averaging = table.percent(found["step", number].averaging)
    lines.append(
      f"{number:>4} devices: a step {of['step']}, without averaging {of['step/apart']}, moments "
      f"{of['accumulate']}; the machine gave {of['limit/devices']}. Averaging takes {averaging} "
      "of a step."
    )
  return "\n".join(lines) if len(lines) > 2 else "\nThere is one device: nothing to compare."
