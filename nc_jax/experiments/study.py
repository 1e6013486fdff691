"""One experiment from its cells to its verdict, in a folder of its own.

In the folder:
  runs/CELL/seedN/   what each run leaves behind: config.json, metrics.csv, examples.npz, ...
  results.csv        one row per run, epoch, split, layer and key
  table.csv, .md     the experiment's table; e4: depth.csv, measures of depth at every epoch
  *.png, *.svg       its figures
  verdict.json       what must be seen: measured numbers beside thresholds
  study.json         what was asked for; the last thing that is written
"""

import importlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib

from nc_jax import command_line, settings
from nc_jax.errors import UserError
from nc_jax.experiments import bounds, claims, figure_files, report, runner
from nc_jax.experiments.results import Cell, Results
from nc_jax.figure_style import STYLE
from nc_jax.files import replacing

EXPERIMENTS = ("e1", "e2", "e3a", "e3b", "e4")
SCALES = ("standin", "narrow", "paper")


class Study(NamedTuple):
  """An experiment that was asked for, checked, and not yet begun."""

  name: str
  folder: pathlib.Path
  cells: list[Cell]
  jobs: list[runner.Job]
  asked: dict[str, Any]  # as in study.json


def prepare(
  name: str,
  folder: pathlib.Path,
  configs: pathlib.Path,
  scale: str,
  seeds: Sequence[int],
  only: Sequence[str] = (),
  overrides: Sequence[str] = (),
) -> Study:
  """Reads the cells of `configs`/NAME.py and plans their runs.

  Args:
    only: keep the cells whose names begin with one of these; (): all.
    overrides: --config.KEY=VALUE, for every cell.

  Raises UserError for an experiment that has no such scale, and whatever is wrong with its cells
  or the overrides. Nothing is written.
  """
  known = scales(name, configs)
  if scale not in known:
    raise UserError(f"--scale={scale}: {name} has {', '.join(known)}.")
  path = configs / f"{name}.py"
  entries = command_line.call(path, "cells", scale, says=str(path))
  cells = [Cell(**entry) for entry in entries]
  if only:
    kept = [cell for cell in cells if cell.name.startswith(tuple(only))]
    if not kept:
      known = "; ".join(cell.name for cell in cells)
      raise UserError(f"--cells={','.join(only)}: {name} has the cells {known}.")
    cells = kept
  cells = _overridden(cells, list(overrides))
  asked = {
    "experiment": name,
    "scale": scale,
    "seeds": list(seeds),
    "cells": list(only),
    "overrides": list(overrides),
  }
  return Study(name, folder, cells, runner.plan(cells, seeds, folder), asked)


def scales(name: str, configs: pathlib.Path) -> tuple[str, ...]:
  """The scales of an experiment."""
  path = configs / f"{name}.py"
  if not path.is_file():
    raise UserError(f"--configs={configs}: there is no file {path}.")
  return command_line.call(path, "scales", says=str(path))


def _overridden(cells: list[Cell], overrides: list[str]) -> list[Cell]:
  """The cells with every optional key of a config, changed as the overrides say.

  Raises UserError for an override of what tells the cells apart.
  """
  cells = [cell._replace(config=settings.complete(cell.config)) for cell in cells]
  flat = [settings.flatten(cell.config) for cell in cells]
  for key in command_line.overridden(overrides):
    settings.check_key(key)
    if key == "seed":
      raise UserError("config.seed: seeds are chosen by --seeds.")
    if any(other.get(key) != flat[0].get(key) for other in flat):
      raise UserError(f"config.{key} differs between the cells: --cells chooses among them.")
  return [cell._replace(config=command_line.override(cell.config, overrides)) for cell in cells]


def train(study: Study, most: int, say: Callable[[str], None]):
  """Trains what is not finished yet; see `runner.run`."""
  runner.run(study.jobs, study.folder, most, say)


def conclude(study: Study) -> report.Section:
  """Judges, tabulates and draws what the runs yielded, writes it all down, and returns it."""
  experiment = importlib.import_module(f"nc_jax.experiments.{study.name}")
  results = runner.results(study.cells, study.jobs)
  results.write_csv(study.folder / "results.csv")
  found = bounds.of_claims(experiment.claims, results)
  judged = claims.verdict([*found, _all_ended(results)], study.cells)
  table = bounds.of_table(experiment.table, results)
  table.to_csv(study.folder / "table.csv")
  with replacing(study.folder / "table.md") as file:
    file.write(table.to_markdown())
  for stem, more in getattr(experiment, "MORE_TABLES", {}).items():
    bounds.of_table(more, results).to_csv(study.folder / f"{stem}.csv")
  with matplotlib.rc_context(STYLE):
    figures = experiment.figures(results)
  figure_files.save(study.folder, figures)
  claims.write(
    judged,
    study.folder / "verdict.json",
    experiment=study.name,
    title=experiment.TITLE,
    failed_runs=results.failed,
  )
  with replacing(study.folder / "study.json") as file:
    json.dump(study.asked, file, indent=2)
    file.write("\n")
  pictures = [
    report.Picture(study.folder / f"{stem}.svg", *experiment.CAPTIONS[stem]) for stem in figures
  ]
  return report.Section(
    study.name,
    experiment.TITLE,
    experiment.QUESTION,
    experiment.CLAIM,
    judged,
    table,
    pictures,
    results.failed,
  )


def beside(
  studies: Sequence[Study],
  workdir: pathlib.Path,
  configs: pathlib.Path,
  say: Callable[[str], None],
) -> list[Study]:
  """The studies, and those that the workdir holds from before; in the order of EXPERIMENTS.

  One whose cells are no longer those that it was made with is named and left out.
  """
  found = {each.name: each for each in studies}
  for name in EXPERIMENTS:
    path = workdir / name / "study.json"
    if name not in found and path.exists():
      asked = json.loads(path.read_text())
      try:
        found[name] = prepare(
          name,
          workdir / name,
          configs,
          asked["scale"],
          asked["seeds"],
          asked["cells"],
          asked["overrides"],
        )
      except UserError as error:
        say(f"The report leaves out {name}: {error}")
  return [found[name] for name in EXPERIMENTS if name in found]


def _all_ended(results: Results) -> claims.Claim:
  """Claims are judged on the seeds that ended: this one says whether all did."""
  failed = [run for run in results.failed if not results.cell(run.cell).negative]
  text = "runs that did not end, negative cells apart"
  return claims.Claim("runs", "every cell", text, len(failed), "<=", 0)
