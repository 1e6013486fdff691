"""Phase diagrams: one config over a grid of settings.

  python -m nc_jax.sweep --config=FILE[:VARIANT] --sweep=FILE --workdir=DIR [--config.KEY=VALUE ...]

The sweep FILE is JSON, such as configs/sweeps/rate_decay.json: settings and the values that they
take, in all combinations. Values are a list, {"log": [first, last, number]} or {"linear": ...}; a
list of such objects is a union of grids. Runs that differ in seed, learning rate, weight decay or
loss parameters are trained together by one program, others one after another. Unless
--config.observe.layers and --config.observe.epochs say otherwise, only the penultimate layer is
measured, at about twelve epochs.

In the workdir:
  cells.csv     a row per cell and seed: settings, V(train), V(test), V_weak(test) and errors at the
                end, terminal epoch, and why a run failed
  results.csv   every number of every run: cell,seed,epoch,split,layer,key,value
  sweep.png, .svg   maps over the two settings with most values; lines over one
  runs/CELL/seedN   what each run leaves behind

A run whose loss is no longer finite is given up and listed; the sweep goes on. An interrupted sweep
goes on when the command is given again, and one whose grid has grown keeps what is finished.

Exit status: 0 done, also with failed cells; 1 a run broke; 2 the request was wrong; 128 + n when
stopped by signal n.
"""

import argparse
import csv
import os
import pathlib
import re
import sys

# As in nc_jax.main, and before JAX is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

try:
  from nc_jax import virtual_devices

  virtual_devices.one_per_core()
  import matplotlib
  import numpy as np

  from nc_jax import command_line, workdirs
  from nc_jax.console import say
  from nc_jax.errors import UserError, exit_status
  from nc_jax.experiments import figure_files, grid, runner
  from nc_jax.experiments.claims import three_digits
  from nc_jax.experiments.penultimate import ERROR, V_WEAK, V, final
  from nc_jax.experiments.results import Results
  from nc_jax.figure_style import STYLE
  from nc_jax.files import replacing
  from nc_jax.heat_maps import heat_map
  from nc_jax.parser import Parser
  from nc_jax.training import loop
except ModuleNotFoundError as missing:
  print(f"nc_jax: {missing}; sweeps need pip install -e '.[train,plot]'.", file=sys.stderr)
  sys.exit(2)

VALUES = {  # column: split, key at the end of training
  "V(train)": ("train", V),
  "V(test)": ("test", V),
  "V_weak(test)": ("test", V_WEAK),
  "train error": ("train", ERROR),
  "test error": ("test", ERROR),
}
SHOWN = 30  # cells of the table on the screen


def main(argv: list[str]) -> int:
  return exit_status(run, argv, "the same command goes on from what was saved")


def run(argv: list[str]) -> int:
  arguments = parse(argv[1:])
  points = grid.read(arguments.sweep)
  cells = grid.cells(small(arguments), points)
  jobs = runner.plan(cells, range(arguments.seeds), arguments.workdir)
  with workdirs.held(arguments.workdir):
    say(f"{len(cells)} cells, {len(jobs)} runs. Results in {arguments.workdir}.")
    try:
      runner.run(jobs, arguments.workdir, arguments.together, say)
    except loop.Stopped as stopped:
      say(str(stopped))
      return 128 + stopped.signum
    results = runner.results(cells, jobs)
    results.write_csv(arguments.workdir / "results.csv")
    rows = table(results)
    with replacing(arguments.workdir / "cells.csv") as file:
      writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
      writer.writeheader()
      writer.writerows(row | {"failed": row["failed"] or ""} for row in rows)
    draw(rows, points, arguments.workdir)
  print(to_text(rows, points))
  say(f"All cells: {arguments.workdir / 'cells.csv'}; figure: {arguments.workdir / 'sweep.png'}")
  return 0


def small(arguments: argparse.Namespace):
  """The config with its overrides; what it measures is little unless it says what."""
  config = command_line.open_config(arguments.config)
  config = command_line.override(config, arguments.overrides)
  total = config.optim.total_epochs
  if config.observe.layers is None:
    config.observe.layers = ()
  if config.observe.epochs is None:
    config.observe.epochs = tuple(sorted({round(total ** (i / 11)) for i in range(12)}))
  config.checkpoint.every_epochs = max(config.checkpoint.every_epochs, total // 10)
  config.checkpoint.max_to_keep = 1
  return config


def table(results: Results) -> list[dict]:
  """A row per cell and seed: what was swept, where it ended, why it failed (None: it did not)."""
  rows = []
  for cell in results.cells:
    ended = results.seeds(cell.name)
    values = {name: final(results, cell.name, *where) for name, where in VALUES.items()}
    terminal = results.terminal_epoch(cell.name)
    failed = {run.seed: run.failed for run in results.failed if run.cell == cell.name}
    for seed in sorted([*ended, *failed]):
      row = {**cell.values, "seed": seed}
      number = ended.index(seed) if seed in ended else None
      for name in VALUES:
        row[name] = np.nan if number is None else float(values[name][number])
      row["terminal epoch"] = None if number is None else terminal[number]
      rows.append(row | {"failed": failed.get(seed)})
  return rows


def draw(rows: list[dict], points: list[dict], workdir: pathlib.Path):
  """Maps over the two settings with most values; there are none of a single point."""
  swept = axes_of(points)
  if not swept:
    return
  x, y, *others = *swept, None, None
  values = ["V(train)", "V(test)", "test error"]
  with matplotlib.rc_context(STYLE):
    figure = heat_map(rows, x, y, values, [other for other in others if other])
  figure_files.save(workdir, {"sweep": figure})


def axes_of(points: list[dict]) -> list[str]:
  """The settings that take several values, those with most first."""
  keys = list(dict.fromkeys(key for point in points for key in point))
  counts = {key: len({str(point.get(key)) for point in points}) for key in keys}
  return sorted((key for key in keys if counts[key] > 1), key=lambda key: -counts[key])


def to_text(rows: list[dict], points: list[dict]) -> str:
  """A line per run, in the order of the grid, and the failed ones again below."""
  keys = list(dict.fromkeys(key for point in points for key in point))
  columns = [*keys, "seed", *VALUES]
  word = lambda value: three_digits(value) if isinstance(value, float) else str(value)
  lines = [columns, *([word(row.get(column, "")) for column in columns] for row in rows[:SHOWN])]
  widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
  text = ["  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines]
  if len(rows) > SHOWN:
    text.append(f"... and {len(rows) - SHOWN} more runs")
  failed = [row for row in rows if row["failed"]]
  if failed:
    text.append(f"\nFailed: {len(failed)} of {len(rows)} runs")
    text += [
      "  " + ", ".join(f"{key}={word(row[key])}" for key in (*keys, "seed") if key in row)
      + f": {row['failed']}"
      for row in failed[:SHOWN]
    ]  # fmt: skip
  return "\n".join(text)


def parse(arguments: list[str]) -> argparse.Namespace:
  parser = Parser(
    prog="python -m nc_jax.sweep",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  path = pathlib.Path
  parser.add_argument("--config", metavar="FILE[:VARIANT]", help="such as configs/digits.py")
  parser.add_argument("--sweep", type=path, required=True, metavar="FILE", help="the grid")
  parser.add_argument("--workdir", type=path, required=True, metavar="DIR", help="for results")
  parser.add_argument("--seeds", type=int, default=1, metavar="N", help="of each cell (default 1)")
  parser.add_argument(
    "--together", type=int, default=16, metavar="N", help="most runs trained at once (default 16)"
  )
  known, rest = parser.parse_known_args(arguments)
  foreign = [arg for arg in rest if not re.match(r"--?(no)?config\.|[^-]", arg)]
  if foreign:
    parser.error(f"unrecognized arguments: {' '.join(foreign)}")
  for flag in ("seeds", "together"):
    if getattr(known, flag) < 1:
      raise UserError(f"--{flag}={getattr(known, flag)}: must be at least 1.")
  known.overrides = rest
  return known


if __name__ == "__main__":
  sys.exit(main(sys.argv))
