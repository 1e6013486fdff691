"""Trains every run of an experiment: runs of one shape together, finished ones not again."""

import json
import math
import pathlib
import re
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from nc_jax import compilation, made_with, replicates, settings, writers
from nc_jax.console import Console, reading
from nc_jax.errors import RunError, UserError
from nc_jax.experiments.results import Cell, Results, Run
from nc_jax.files import replacing
from nc_jax.training import loop, together

_END = "finished.json"  # the last thing that is written of a run


class Job(NamedTuple):
  """A run to be: a cell with a seed."""

  cell: str
  seed: int
  config: object  # resolved
  folder: pathlib.Path


def plan(cells: Sequence[Cell], seeds: Sequence[int], workdir: pathlib.Path) -> list[Job]:
  """The runs that cells and seeds ask for, in the workdir's folder `runs`.

  Raises UserError, before anything is trained or written, for a config that is wrong and for a
  folder that holds a run of another config.
  """
  jobs, taken = [], {}
  for cell in cells:
    for seed in seeds:
      config = cell.config.copy_and_resolve_references()
      config.seed = seed
      try:
        config = settings.resolve(config)
      except UserError as error:
        raise UserError(f"{cell.name}: {error}") from error
      folder = workdir / "runs" / _slug(cell.name) / f"seed{seed}"
      job = Job(cell.name, seed, config, folder)
      other = taken.setdefault(folder, job)
      if other is not job:
        raise UserError(f"The names {other.cell!r} and {cell.name!r} would share {folder}.")
      _check_folder(job, workdir)
      jobs.append(job)
  return jobs


def _check_folder(job: Job, workdir: pathlib.Path):
  saved = job.folder / "config.json"
  if not saved.exists():
    return
  changed = settings.differences(settings.saved(saved), job.config)
  if changed:
    raise UserError(
      f"--workdir={workdir} holds a run of {job.cell}, seed {job.seed}, by another config "
      f"({'; '.join(changed)}). Choose another folder, or the config it was made with."
    )


def run(jobs: Sequence[Job], workdir: pathlib.Path, most: int, say: Callable[[str], None]):
  """Trains what is not finished yet, up to `most` runs of one shape together.

  A run whose loss is no longer finite is noted as failed in its folder, and is not tried again.

  Raises loop.Stopped by a signal, after saving: called again, it goes on from there.
  """
  todo = [job for job in jobs if not (job.folder / _END).exists()]
  if todo:
    compilation.keep_in(todo[0].config.compilation_cache)
    compilation.share()
  if len(todo) < len(jobs):
    say(f"{len(jobs) - len(todo)} of {len(jobs)} runs are there already.")
  for changed in sorted({made_with.changes(job.folder) for job in jobs} - {None}):
    say(changed)
  cohorts = cohorts_of(todo, most)
  for number, cohort in enumerate(cohorts, 1):
    say(f"[{number}/{len(cohorts)}] {_describe(cohort)}")
    try:
      _train(cohort, workdir, say)
    except together.Apart as reason:
      say(f"  One after another: {reason}")
      for job in cohort:
        _train([job], workdir, say)


def cohorts_of(jobs: Sequence[Job], most: int) -> list[list[Job]]:
  """Jobs that can be trained together, in cohorts of nearly equal size, `most` at most."""
  shapes: dict[tuple, list[Job]] = {}
  for job in jobs:
    shapes.setdefault(together.shape_of(job.config), []).append(job)
  cohorts = []
  for alike in shapes.values():
    number = math.ceil(len(alike) / most)
    bounds = [i * len(alike) // number for i in range(number + 1)]
    cohorts += [alike[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
  return cohorts


def results(cells: Sequence[Cell], jobs: Sequence[Job]) -> Results:
  """What the runs yielded so far."""
  runs = []
  for job in jobs:
    why = loop.why_failed(job.folder)
    if why is None and not (job.folder / _END).exists():
      why = "It has not ended."
    rows = [
      (row["epoch"], row["split"], row["layer"], row["key"], row["value"])
      for row in writers.read_csv(job.folder / "metrics.csv")
    ]
    runs.append(Run(job.cell, job.seed, rows, why, replicates.load(job.folder)))
  return Results(list(cells), runs)


def seconds(jobs: Sequence[Job]) -> float:
  """Time that the finished runs took; of runs trained together, each its share."""
  ends = [job.folder / _END for job in jobs]
  return sum(json.loads(path.read_text())["seconds"] for path in ends if path.exists())


def _train(cohort: Sequence[Job], workdir: pathlib.Path, say: Callable[[str], None]):
  began = time.monotonic()
  with reading() as progress:
    folders = [str(job.folder.absolute()) for job in cohort]
    built = together.build(folders, [job.config for job in cohort], progress)
  for job in cohort:
    job.folder.mkdir(parents=True, exist_ok=True)
    with replacing(job.folder / "config.json") as file:
      file.write(settings.to_json(job.config))
    made_with.note(job.folder)
  # Checkpoints are those of runs trained together: another selection of runs begins anew.
  identity = zlib.crc32("".join(folders).encode())
  unfinished = workdir / "runs" / f".unfinished-{identity:08x}"
  unfinished.mkdir(exist_ok=True)
  try:
    loop.train(built, unfinished, Console(built.config.optim.total_epochs, built.steps_per_epoch))
  except RunError:
    if not all(loop.why_failed(job.folder) for job in cohort):
      raise
  took = time.monotonic() - began
  for job in cohort:
    if why := loop.why_failed(job.folder):
      say(f"  {job.cell}, seed {job.seed} failed. {why}")
    with replacing(job.folder / _END) as file:
      json.dump({"seconds": took / len(cohort), "trained_together": len(cohort)}, file)
  shutil.rmtree(unfinished)  # the runs' folders hold all that is asked for
  say(f"  {took:.0f} s")


def _describe(cohort: Sequence[Job]) -> str:
  cells = list(dict.fromkeys(job.cell for job in cohort))
  seeds = sorted({job.seed for job in cohort})
  names = cells[0] if len(cells) == 1 else f"{cells[0]}, ... ({len(cells)} cells)"
  return f"{names}: {len(cohort)} runs together, seeds {', '.join(map(str, seeds))}"


def _slug(name: str) -> str:
  """The name as that of a folder: neither hidden nor another one's, as `..` is."""
  return re.sub(r"[^A-Za-z0-9=.+-]+|^\.+", "_", name) or "_"
