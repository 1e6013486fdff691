"""From the studies in a workdir to its report page."""

import datetime
import os
import pathlib
import platform

import jax

from nc_jax import made_with, settings
from nc_jax.experiments import report, runner, study
from nc_jax.experiments.claims import in_brackets, three_digits


def write(
  workdir: pathlib.Path,
  studies: list[study.Study],
  sections: list[report.Section],
  command: str,
):
  """Writes report.html, which tells of these studies in the workdir; a section for each."""
  several = len({each.asked["scale"] for each in studies}) > 1
  recipes = [
    (f"{each.name}: {cell.name}", settings.flatten(cell.config))
    for each in studies
    for cell in each.cells
  ]
  scale = "several scales" if several else f"scale {studies[0].asked['scale']}"
  page = report.Page(
    title="Limitations of neural collapse: the experiments",
    lead="Do features of unseen examples collapse when those of the train set do, and what does "
    f"collapse cost? ({scale})",
    command=command,
    configs=recipes,
    versions=made_with.versions(),
    hardware=hardware(),
    run_seconds=sum(runner.seconds(each.jobs) for each in studies),
    created=datetime.datetime.now(datetime.UTC).strftime("%d %B %Y").lstrip("0"),
    sections=sections,
  )
  report.write(workdir / "report.html", page)


def hardware() -> str:
  """The devices, and the processor."""
  devices = jax.devices()
  kinds = f"{len(devices)} x {devices[0].device_kind}"
  if devices[0].platform != "cpu":
    return kinds
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  return f"{cores} cores of {_processor()}"


def _processor() -> str:
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
  except (OSError, StopIteration):
    return platform.processor() or platform.machine()


def to_text(section: report.Section) -> str:
  """The verdict for a terminal."""
  judged = section.verdict
  lines = [f"\n{section.id.upper()}  {section.title}: {'pass' if judged.passed else 'FAIL'}"]
  for claim in judged.claims:
    lines.append(_line("pass" if claim.passed else "FAIL", claim))
  for cell, claims in judged.negative.items():
    must = "failed, as it must" if judged.failed_as_it_must(cell) else "DID NOT FAIL"
    lines.append(f"  {cell} (negative): {must}")
    lines += [_line("pass" if claim.passed else "fail", claim) for claim in claims]
  lines += [f"  {run.cell}, seed {run.seed}: {run.failed}" for run in section.failed_runs]
  return "\n".join(lines)


def _line(word: str, claim) -> str:
  number = f"{three_digits(claim.measured)} ({claim.relation} {claim.threshold:g})"
  bounds = in_brackets(claim.low, claim.high)
  return f"  {word}  {claim.item:<6} {number:<20} {bounds:<20} {claim.cell}: {claim.text}"
