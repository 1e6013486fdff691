"""Times the metric library beside this machine's limits, plain NumPy, and a peer.

Calls take turns, A B A B, and medians are printed; every time is wall-clock time of all devices
together, results waited for, call by call or those of several in a row. Compilation is listed
apart. Nothing is judged: look at the ratios.
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import nc_jax as nc
from nc_jax.benchmarks import contenders, flags, machine, table
from nc_jax.benchmarks.sizes import SIZES, Size, check_devices, choose, too_large
from nc_jax.benchmarks.timing import Timing, interleave
from nc_jax.errors import RunError

BUDGET = 120.0  # s a group of interleaved calls may take; slow ones make fewer repeats
BATCH = 4096
SIDE = 8192  # of the square product

WHAT = {
  "limit/product": "X'X by XLA at the library's precision, symmetry unused; the unit of /product",
  "limit/blas": "X.T @ X by NumPy, whose BLAS may use the symmetry: compare",
  "limit/gemm": f"X.T @ Y by NumPy, two arrays of the first {2 * BATCH:,} rows",
  "limit/square": f"as many operations in products of {SIDE:,} x {SIDE:,} matrices; not on CPUs",
  "limit/read": "sum of X by XLA",
  "accumulate/scatter": "nc.accumulate in one call: counts, means, spread, scatter",
  "accumulate/traces": "the same with scatter=False: counts, means and spread only",
  "limit/again": "limit/product, in turns with the rows below it and their unit",
  "accumulate/batches": f"the same as the first, in NumPy batches of {BATCH:,} rows, donating",
  "decide": "nc.decide: the second pass, NC4 of means and classifier",
  "measure": "nc.measure: NC1 to NC3 from moments, without ranks",
  "report": "nc.report without ranks: accumulate, decide and measure",
  "numpy/two_pass": "class means in a loop over classes, then centred.T @ centred",
  "process/nc_jax": "report on NumPy arrays, in a process of its own, on one device",
  "process/traces": "the same with scatter=False: all that rhubarbwu measures, and so no VCI",
  "process/rhubarbwu": "neural_collapse's accumulators and metrics on the same arrays, likewise",
}


def add_arguments(parser: argparse.ArgumentParser):
  known = ", ".join(str(size) for size in SIZES.values())
  parser.add_argument("--sizes", metavar="S1,S2", help=f"any of: {known} (default: all)")
  parser.add_argument("--n", type=int, help="a size of your own: examples")
  parser.add_argument("--d", type=int, help="a size of your own: features of each")
  parser.add_argument("--k", type=int, help="a size of your own: classes")
  parser.add_argument(
    "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the features"
  )
  parser.add_argument(
    "--no_peers", action="store_true", help="leave out the processes, ours and rhubarbwu"
  )
  parser.add_argument(
    "--in_a_row",
    action="store_true",
    help="wait for the last of a sample's calls only, as a loop over batches does: rates of a "
    "device, without what it takes to start a short call there",
  )
  flags.add_arguments(parser)
  parser.add_argument(
    "--chart", type=pathlib.Path, metavar="FILE", help="draw bars to FILE.png, .svg or .pdf"
  )


def run(arguments: argparse.Namespace):
  sizes = choose(arguments.sizes, arguments.n, arguments.d, arguments.k)
  flags.check(arguments)
  flags.check_chart(arguments.chart)
  devices = machine.devices(arguments.devices)
  check_devices(sizes, len(devices))
  calls = "in a row" if arguments.in_a_row else "one by one"
  asked = {"dtype": arguments.dtype, "precision": "highest", "calls": calls}
  facts = machine.facts(devices) | asked
  print(f"nc_jax metrics  {table.in_words(facts)}")
  print(f"Medians of {arguments.repeats} samples in turns, fewer where noted.", end=" ")
  print("* marks a time scaled up from a part.")
  for what, meaning in WHAT.items():
    print(f"  {what:20}{meaning}")
  rows = []
  for size in sizes:
    print(f"\n{size}  ({size.feature_bytes() / 1e9:.3g} GB in float32, load {machine.load():.1f})")
    if reason := too_large(size, devices):
      print(f"skipped: {reason}")
      continue
    if size.n % len(devices):
      size = size._replace(n=size.n - size.n % len(devices))
      print(f"the first {size.n:,} examples, to divide by {len(devices)} devices")
    print(table.HEADINGS, flush=True)
    for row in timed(size, devices, arguments):
      print(table.to_line(row), flush=True)
      rows.append(row)
    if arguments.csv:
      table.write_csv(arguments.csv, rows, facts)
  if not rows:
    raise RunError("nothing was measured: no size fits into memory.")
  if arguments.chart:
    from nc_jax.benchmarks import chart

    chart.draw(arguments.chart, rows, table.in_words(facts))


def timed(size: Size, devices: list, arguments: argparse.Namespace):
  """Yields the rows of one size as they are measured."""
  product_s = float("nan")
  for row in inside(size, devices, arguments):
    if row.what.startswith("limit/"):
      product_s = row.median_s / row.x_product
    yield row
  if not arguments.no_peers and arguments.dtype == "float32":  # all that the peer knows
    yield from outside(size, devices[0].platform, arguments.repeats, product_s)


def inside(size: Size, devices: list, arguments: argparse.Namespace):
  """Rows timed in this process: two groups, each interleaved with the limit."""
  features, labels, weight, bias = contenders.examples(size.n, size.d, size.k)
  if arguments.dtype == "bfloat16":
    features = features.astype(jnp.bfloat16)
  many = len(devices) > 1
  mesh = Mesh(np.array(devices), ("examples",)) if many else None
  place = NamedSharding(mesh, PartitionSpec("examples")) if many else devices[0]
  x, y = jax.device_put((features, labels), place)
  head = nc.Head(jnp.asarray(weight), jnp.asarray(bias))
  nothing = nc.ClassMoments.empty(size.k, size.d)
  neither = nc.ClassMoments.empty(size.k, size.d, scatter=False)
  options = {"repeats": arguments.repeats, "budget": BUDGET, "in_a_row": arguments.in_a_row}
  take_turns = functools.partial(interleave, **options)
  on_cpu, plain = devices[0].platform == "cpu", arguments.dtype == "float32"

  cases = {"limit/product": lambda: product(x)}
  if on_cpu and plain:
    cases["limit/blas"] = lambda: features.T @ features
    some = features[: 2 * BATCH]
    other = some.copy()
    cases["limit/gemm"] = lambda: some.T @ other
  if not on_cpu:
    square = jax.device_put(np.resize(features[:SIDE], (SIDE, SIDE)), devices[0])
    cases["limit/square"] = lambda: product(square)
  cases |= {
    "limit/read": lambda: read(x),
    "accumulate/scatter": lambda: nc.accumulate(nothing, x, y),
    "accumulate/traces": lambda: nc.accumulate(neither, x, y),
  }
  timings = take_turns(cases)
  if size.n > 2 * BATCH and "limit/gemm" in timings:
    timings["limit/gemm"] = timings["limit/gemm"].scaled(size.n / (2 * BATCH))
  if "limit/square" in timings:
    share = size.n * size.d**2 / SIDE**3 / len(devices)
    timings["limit/square"] = timings["limit/square"].scaled(share)
  yield from rows_of(size, timings, features.itemsize)

  def batches():
    moments = nc.ClassMoments.empty(size.k, size.d)
    for start in range(0, size.n, BATCH):
      rows = slice(start, start + BATCH)
      moments = nc.accumulate(moments, features[rows], labels[rows], donate=True)
    return moments

  moments = nc.accumulate(nothing, x, y)
  everything = {"num_classes": size.k, "weight": weight, "bias": bias, "ranks": False}
  cases = {"limit/again": lambda: product(x)}
  if not many:
    cases["accumulate/batches"] = batches
  cases |= {
    "decide": lambda: nc.decide(x, y, moments, head),
    "measure": lambda: nc.measure(moments, head, mesh=mesh),
    "report": lambda: nc.report(x, y, mesh=mesh, **everything),
  }
  if plain:
    cases["numpy/two_pass"] = lambda: contenders.two_passes(features, labels, size.k)
  yield from rows_of(size, take_turns(cases), features.itemsize)


@jax.jit
def product(x):
  x = x.astype(jnp.float32)
  return jnp.einsum("nd,ne->de", x, x, precision="highest")


@jax.jit
def read(x):
  return jnp.sum(x, dtype=jnp.float32)


def rows_of(size: Size, timings: dict[str, Timing], itemsize: int):
  """Rows of one group, with everything that follows from the times and the size."""
  passes = {"measure": 0, "report": 2, "numpy/two_pass": 2}
  square, scores = 2 * size.n * size.d**2, 4 * size.n * size.k * size.d
  flops = dict.fromkeys(WHAT, square)
  flops |= {"limit/read": None, "accumulate/traces": None, "measure": None}
  flops |= {"decide": scores, "report": square + scores}
  median = {what: timing.median for what, timing in timings.items()}
  unit = median.get("limit/product") or median["limit/again"]
  for what, seconds in median.items():
    read = size.feature_bytes(itemsize) * passes.get(what, 1)
    yield row_of(
      size,
      what,
      timings[what],
      gb_per_s=read / seconds / 1e9 if read else None,
      gflop_per_s=flops[what] / seconds / 1e9 if flops[what] else None,
      x_product=seconds / unit,
      share_of_blas=median["limit/blas"] / seconds if "limit/blas" in median else None,
      share_of_read=median["limit/read"] / seconds if "limit/read" in median else None,
      scaled=what == "limit/square" or (what == "limit/gemm" and size.n > 2 * BATCH),
    )


def outside(size: Size, platform: str, repeats: int, product_s: float):
  """Rows of whole processes: ours and the peer's."""
  if platform not in ("cpu", "gpu"):
    print(f"no processes: one process at a time may hold a {platform}")
    return
  ours = None
  for name in contenders.CONTENDERS:
    if absent := contenders.missing(name):
      print(f"no process/{name}: {absent} cannot be imported")
      continue
    try:
      result = contenders.run(name, size, repeats, platform == "gpu")
    except RuntimeError as error:
      print(f"no process/{name}: {error}")
      continue
    timing = Timing(result["samples"], result["compiling"], 0)
    ours = timing.median if name == "nc_jax" else ours
    yield row_of(
      size,
      f"process/{name}",
      timing,
      x_product=timing.median / product_s,
      x_nc_jax=timing.median / ours if ours and name != "nc_jax" else None,
      data_mib=result["data"] / 2**20,
      peak_mib=(result["device_peak"] or result["peak"]) / 2**20,
      scaled=result["scaled"],
    )


def row_of(size: Size, what: str, timing: Timing, **more) -> table.Row:
  return table.Row.of(what, timing, size=size.name, n=size.n, d=size.d, k=size.k, **more)
