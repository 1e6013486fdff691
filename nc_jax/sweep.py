"""Phase diagrams: train and test collapse over a grid of settings.

  python -m nc_jax.sweep --config=configs/digits.py --sweep=configs/sweeps/rate_decay.json \\
      --workdir=runs/rate_decay

trains a run for each combination of the values in the sweep file, and each of --seeds. The file is
JSON: settings with lists of values, or ranges of numbers,

  {"optim.peak_lr": [0.01, 0.1], "optim.weight_decay": {"log": [1e-4, 1e-2, 5]}}

{"linear": [low, high, number]} likewise; numbers between the ends are rounded to six digits, and
to whole ones where the setting is. A list of such objects is a union of grids. Cells that differ
in learning rate, weight decay, numbers of the loss and seed alone are trained together.

Unless the config or --config.observe.KEY=VALUE asks for other ones, 12 log-spaced epochs are
observed, of the penultimate layer alone (observe.epochs, observe.layers).

In the workdir:
  cells.csv         a row per run: its settings, V(train), V(test), V_weak(test), train and test
                    error at the end, the first observed epoch with train error 0 (terminal
                    epoch), with observe.bootstrap 95 % bounds over examples of these, and why
                    it failed if it did
  sweep*.png, .svg  maps of these over the two settings with most values, lines over one; with
                    further settings a figure of each, a panel per combination of their values
  results.csv       one row per run, epoch, split, layer and key
  runs/CELL/seedN/  what each run leaves behind: config.json, metrics.csv, examples.npz, ...
  sweep.json        what was asked for

A run whose loss is no longer finite has failed: it is listed, and the sweep goes on. An interrupted
command goes on where it was when it is given again; finished runs of cells that the sweep file
still names, now that it may name others, are kept.

V = nc1/trace_ratio, V_weak = weak/second_moment: Hui, Belkin & Nakkiran 2022, arXiv 2202.08384.
`--config.KEY=VALUE` changes a setting of every cell; python -m nc_jax.main --help lists them.

Exit status: 0 done, whichever runs failed; 1 training cannot go on; 2 the request was wrong;
128 + n when stopped by signal n.
"""

import argparse
import json
import os
import pathlib
import sys
from typing import Any, NamedTuple

# As in nc_jax.main, and before JAX is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

try:
  from nc_jax import virtual_devices

  virtual_devices.one_per_core()
  from nc_jax import command_line, workdirs
  from nc_jax.console import say
  from nc_jax.errors import UserError, exit_status
  from nc_jax.experiments import grid, phase_diagram, runner
  from nc_jax.experiments.results import Cell
  from nc_jax.files import replacing
  from nc_jax.parser import Parser
  from nc_jax.training import loop
except ModuleNotFoundError as missing:
  print(f"nc_jax: {missing}; sweeps need pip install -e '.[train,plot]'.", file=sys.stderr)
  sys.exit(2)

_RECORD = "sweep.json"


class Sweep(NamedTuple):
  """A sweep that was asked for, checked, and not yet begun."""

  workdir: pathlib.Path
  settings: list[str]  # that are swept
  cells: list[Cell]
  jobs: list[runner.Job]
  asked: dict[str, Any]  # as in sweep.json


def main(argv: list[str]) -> int:
  return exit_status(run, argv, "the same command goes on from what was saved")


def run(argv: list[str]) -> int:
  arguments = parse(argv[1:])
  sweep = prepare(arguments)
  with workdirs.held(sweep.workdir):
    with replacing(sweep.workdir / _RECORD) as file:
      json.dump(sweep.asked, file, indent=2)
      file.write("\n")
    say(f"{len(sweep.cells)} cells, {len(sweep.jobs)} runs. Results in {sweep.workdir}.")
    try:
      runner.run(sweep.jobs, sweep.workdir, arguments.together, say)
    except loop.Stopped as stopped:
      say(str(stopped))
      return 128 + stopped.signum
    print(conclude(sweep))
  print(f"All numbers: {sweep.workdir / 'cells.csv'}")
  return 0


def prepare(arguments: argparse.Namespace) -> Sweep:
  """Reads config and sweep file and plans the runs.

  Raises UserError for whatever is wrong with them, and for a workdir that holds something else.
  Nothing is written.
  """
  grids = grid.read(arguments.sweep)
  config = command_line.read_config(arguments.config, arguments.overrides)
  given = command_line.overridden(arguments.overrides)
  if "seed" in given:
    raise UserError("config.seed: seeds are chosen by --seeds.")
  cells = grid.cells(grids, config, arguments.sweep, given)
  _check_workdir(arguments.workdir)
  asked = {
    "config": arguments.config,
    "sweep": grids,
    "seeds": list(range(arguments.seeds)),
    "overrides": arguments.overrides,
  }
  jobs = runner.plan(cells, asked["seeds"], arguments.workdir)
  return Sweep(arguments.workdir, list(cells[0].values), cells, jobs, asked)


def conclude(sweep: Sweep) -> str:
  """Tabulates and draws what the runs yielded; returns the best of it for a terminal."""
  results = runner.results(sweep.cells, sweep.jobs)
  results.write_csv(sweep.workdir / "results.csv")
  table = phase_diagram.rows(results)
  phase_diagram.write_csv(table, sweep.settings, sweep.workdir / "cells.csv")
  phase_diagram.draw(table, sweep.settings, sweep.workdir)
  return phase_diagram.summary(table, sweep.settings)


def _check_workdir(workdir: pathlib.Path):
  if workdir.is_dir() and not (workdir / _RECORD).exists():
    if any(not path.name.startswith(".") for path in workdir.iterdir()):
      raise UserError(
        f"--workdir={workdir} holds files, but no sweep. Choose an empty or new folder."
      )


def parse(arguments: list[str]) -> argparse.Namespace:
  parser = Parser(
    prog="python -m nc_jax.sweep",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument(
    "--config", metavar="FILE[:VARIANT]", required=True, help="what all cells have in common"
  )
  parser.add_argument(
    "--sweep", type=pathlib.Path, metavar="FILE", required=True, help="what they differ in"
  )
  parser.add_argument(
    "--workdir", type=pathlib.Path, metavar="DIR", required=True, help="where results go"
  )
  parser.add_argument("--seeds", type=int, default=1, help="of each cell: 0, 1, ... (default 1)")
  parser.add_argument(
    "--together", type=int, default=16, metavar="N", help="most runs trained at once (default 16)"
  )
  known = parser.parse_with_overrides(arguments)
  for flag in ("seeds", "together"):
    if getattr(known, flag) < 1:
      raise UserError(f"--{flag}={getattr(known, flag)}: must be at least 1.")
  return known


if __name__ == "__main__":
  sys.exit(main(sys.argv))
