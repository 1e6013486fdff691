"""Times training as a config asks for it, beside this machine's limits.

  python -m nc_jax.benchmark train --config=FILE[:VARIANT] [--config.KEY=VALUE ...]

Data, network, program and observation are those of `python -m nc_jax.main` with the same config;
nothing is written to a workdir. Calls take turns, A B A B, and medians are printed; every time is
wall-clock time of all devices together, results waited for. Compilation is listed apart. Where
steps are slow, --config.optim.steps_per_call=N makes calls short. Nothing is judged: limits
stand beside the figures.
"""

import argparse
import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nc_jax import command_line
from nc_jax.benchmarks import flags, machine, table
from nc_jax.benchmarks.flops import flops
from nc_jax.benchmarks.timing import interleave
from nc_jax.console import reading
from nc_jax.errors import UserError
from nc_jax.training import building, loop, together
from nc_jax.training.steps import AXIS

BUDGET = 120.0  # s a group of interleaved calls may take; slow ones make fewer repeats
WINDOW = 0.5  # s of training per sample, and two calls at least: one is fed while the other runs
SIDE = {"cpu": 1024}  # of the matrix product
LARGE_SIDE = 8192  # the same on an accelerator

WHAT = {
  "limit/product": "a square matrix product on each device, at the model's precision",
  "step": "a training step, fed as training feeds it",
  "step/repeated": "the same program on one batch that lies on the devices: no input side",
  "observation": "every metric of every layer, on all examples of all splits",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(table.Timed):
  """One thing timed. None where a column makes no sense.

  Attributes:
    median_s: seconds per step, product or observation.
    examples_per_s: examples of all devices together.
    gflop: products and convolutions of one step (`flops.flops`), all devices together.
    gflop_per_s: the same per second.
    share_of_product: gflop_per_s relative to limit/product.
    input_share: of `step`: (step - step/repeated) / step.
    epochs: time relative to the steps of one epoch.
    peak_mib: most memory taken on one device by training, if it says so.
  """

  examples_per_s: float | None = None
  gflop: float | None = None
  gflop_per_s: float | None = None
  share_of_product: float | None = None
  input_share: float | None = None
  epochs: float | None = None
  peak_mib: float | None = None


HEADINGS = (
  f"{'':15}{'compile':>9}{'median':>11}{'min':>11}{'max':>11}{'per s':>9}{'examples/s':>12}"
  f"{'GFLOP/s':>9}{'of product':>12}"
)


def add_arguments(parser: argparse.ArgumentParser):
  parser.add_argument("--config", metavar="FILE[:VARIANT]", help="such as configs/digits.py")
  flags.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
  os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in nc_jax.main, and still in time
  config = command_line.read_config(arguments.config, arguments.overrides)
  flags.check(arguments)
  devices = machine.devices(arguments.devices)
  if len(devices) < jax.device_count():
    raise UserError(
      f"--devices={len(devices)}: training uses all {jax.device_count()} that JAX sees; hide the "
      "others from it, as CUDA_VISIBLE_DEVICES=0 does."
    )
  with reading() as progress:
    experiment = building.build(config, progress)
  facts = machine.facts(devices)
  asked = describe(experiment, " ".join([arguments.config, *arguments.overrides]))
  print(f"nc_jax train  {table.in_words(facts)}")
  print(table.in_words(asked))
  print(f"Medians of {arguments.repeats} samples in turns, fewer where noted.")
  for what, meaning in WHAT.items():
    print(f"  {what:15}{meaning}")
  print(f"\n{HEADINGS}", flush=True)
  rows = {}
  for row in timed(experiment, devices, arguments.repeats):
    print(to_line(row), flush=True)
    rows[row.what] = row
  print(conclude(rows))
  if arguments.csv:
    table.write_csv(arguments.csv, list(rows.values()), facts | asked)
  return 0


def describe(experiment: building.Experiment | together.Cohort, request: str) -> dict:
  """What is timed; `request` is the config file and what was said to differ from it."""
  config = experiment.config
  size = sum(leaf.size for leaf in jax.tree.leaves(experiment.state.params))
  return {
    "config": request,
    "data": config.data.name,
    "model": config.model.name,
    "dtype": config.model.precision or "float32",
    "parameters": size // len(experiment.runs),
    "batch_size": config.data.batch_size,
    "steps_per_epoch": experiment.steps_per_epoch,
    "steps_per_call": len(next(loop.calls(experiment, 0))),
  }


def timed(experiment: building.Experiment, devices: list, repeats: int) -> Iterator[Row]:
  """The rows as they are measured."""
  training = Training(experiment)
  step_s = None
  for row in steps(experiment, training, devices, repeats):
    step_s = row.median_s if row.what == "step" else step_s
    yield row
  observe = lambda: experiment.observer(training.state)
  timing = interleave({"observation": observe}, repeats, BUDGET)["observation"]
  examples = sum(len(feed.split) for feed in experiment.feeds.values())
  yield Row.of(
    "observation",
    timing,
    examples_per_s=examples / timing.median,
    epochs=timing.median / (step_s * experiment.steps_per_epoch),
  )


def steps(experiment: building.Experiment, training: "Training", devices: list, repeats: int):
  """Rows of training beside a matrix product."""
  feed, batches = experiment.feeds["train"], fed(experiment)
  first = interleave({"step": lambda: training.run(batches, 1)}, 0, BUDGET)["step"]
  memory = devices[0].memory_stats() or {}  # before the product takes its share
  peak = memory.get("peak_bytes_in_use")

  index = next(loop.calls(experiment, 0))
  one_batch = placed(feed(np.repeat(index[:1], len(index), axis=0)), feed.axis)
  side = SIDE.get(devices[0].platform, LARGE_SIDE)
  operand = operands(devices, side, experiment.config.model.precision or "float32")
  calls = max(2, round(WINDOW / first.median))
  timings = interleave(
    {
      "limit/product": lambda: product(operand),
      "step": lambda: training.run(batches, calls),
      "step/repeated": lambda: training.run(itertools.repeat(one_batch), calls),
    },
    repeats,
    BUDGET,
  )
  limit = 2 * side**3 * len(devices) / timings["limit/product"].median / 1e9
  yield Row.of("limit/product", timings["limit/product"], gflop_per_s=limit)

  gflop = flops(experiment.program, training.state, *one_batch) / len(index) * len(devices) / 1e9
  fed_s, repeated_s = timings["step"].median, timings["step/repeated"].median
  own = {"step": {"input_share": 1 - repeated_s / fed_s, "peak_mib": peak and peak / 2**20}}
  timings["step"] = timings["step"]._replace(compiling=first.compiling)
  for what in ("step", "step/repeated"):
    timing = timings[what].scaled(1 / (calls * len(index)))
    yield Row.of(
      what,
      timing,
      examples_per_s=experiment.config.data.batch_size / timing.median,
      gflop=gflop,
      gflop_per_s=gflop / timing.median,
      share_of_product=gflop / timing.median / limit,
      **own.get(what, {}),
    )


class Training:
  """What `loop.train` does between observations: the next call is fed while one is on its way."""

  def __init__(self, experiment: building.Experiment | together.Cohort):
    self.state = experiment.place(experiment.state)
    self._program = experiment.program

  def run(self, batches: Iterable, calls: int) -> dict[str, jax.Array]:
    """So many calls on `batches` of (images, labels, index); returns the last one's sums."""
    unread = None
    for batch in itertools.islice(batches, calls):
      self.state, sums = self._program(self.state, *batch)
      if unread is not None:
        jax.device_get(unread)
      unread = sums
    return unread


def fed(experiment: building.Experiment | together.Cohort) -> Iterator:
  """Call after call as the loop feeds them, without end; only the longest: they share a program."""
  steps = len(next(loop.calls(experiment, 0)))
  while True:
    for index in loop.calls(experiment, 0):
      if len(index) == steps:
        yield experiment.batches(index)


def placed(batch: tuple, axis: int | None, devices: list | None = None) -> tuple:
  """A call's (images, labels, index) where the program wants them, so that nothing moves.

  For arguments that lie there JAX compiles the program once more than for those that do not.
  """
  mesh = Mesh(np.array(devices or jax.local_devices()), (AXIS,))  # named as in `steps.replicate`
  put = lambda x, *axes: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))
  *examples, index = batch
  if axis is not None:
    examples = [put(x, AXIS) for x in examples]
  return *examples, put(index, None, AXIS)


def operands(devices: list, side: int, dtype: str) -> jax.Array:
  """A random matrix for each device, [L, side, side]."""
  draw = lambda key: jax.random.normal(key, (len(devices), side, side), dtype)
  each = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))
  return jax.jit(draw, out_shardings=each)(jax.random.key(0))


@jax.jit
def product(x):
  return jnp.matmul(x, x)


def to_line(row: Row) -> str:
  """A row of the printed table, under HEADINGS."""
  text = (
    f"{row.what:15}{row.compile_s:>7.2f} s{table.seconds(row.median_s):>11}"
    f"{table.seconds(row.min_s):>11}{table.seconds(row.max_s):>11}"
    f"{table.number(1 / row.median_s):>9}{table.number(row.examples_per_s):>12}"
    f"{table.number(row.gflop_per_s):>9}{table.percent(row.share_of_product):>12}"
  )
  return f"{text}  {', '.join(table.reservations(row))}".rstrip()


def conclude(rows: dict[str, Row]) -> str:
  """What follows from the rows, in words."""
  step, observation = rows["step"], rows["observation"]
  memory = "unknown: the device does not say"
  if step.peak_mib is not None:
    memory = f"{step.peak_mib:,.0f} MiB at most on each device while training"
  return (
    f"\ninput side   {100 * step.input_share:.1f} % of a step; the goal on a GPU is below 5 %"
    f"\none step     {step.gflop:,.3g} GFLOP in matrix products and convolutions, as the "
    "program asks for them"
    f"\nobservation  takes as long as {observation.epochs:.2g} epochs of steps"
    f"\nmemory       {memory}"
  )
