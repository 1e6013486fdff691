"""The report page: every verdict, figure and table of the experiments in one file.

It opens offline and on any screen. Nothing is loaded and nothing runs: the style sheet and the
figures lie within, and a content security policy forbids the rest.
"""

import base64
import json
import pathlib
import re
import struct
from typing import Any, NamedTuple

from nc_jax.experiments.claims import Table, Verdict
from nc_jax.experiments.figure_files import DPI
from nc_jax.experiments.markup import Html, element, joined
from nc_jax.experiments.report_style import sheet
from nc_jax.experiments.report_tables import badge, results, verdicts
from nc_jax.experiments.results import Run
from nc_jax.files import replacing

_LEAST_SCALE = 0.6  # of a figure: on a narrow screen it scrolls rather than shrink further
LARGEST_SVG = 250_000  # bytes; in place of a larger one, of many points, stands its PNG

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_HOW_TO_READ = (
  "Measured is the worst seed's number, where a claim is judged per seed. In brackets are its 95 % "
  "bootstrap bounds over examples: everything is judged and tabulated anew from each replicate. A "
  "negative cell lacks what the phenomenon needs: at least one of its claims must fail, in every "
  "seed."
)


class Picture(NamedTuple):
  """A figure as `figure_files.save` wrote it: the SVG, with a PNG of the same stem beside it."""

  path: pathlib.Path
  title: str  # the caption
  alt: str  # what it shows, for those who do not see it


class Section(NamedTuple):
  """One experiment."""

  id: str  # "e1"; unique in the page
  title: str
  question: str
  claim: str  # what the paper says
  verdict: Verdict
  table: Table
  figures: list[Picture]
  failed_runs: list[Run]


class Page(NamedTuple):
  """What the page tells; plain data."""

  title: str
  lead: str  # the question in one sentence
  command: str  # that ran it
  configs: list[tuple[str, dict[str, Any]]]  # of each cell: its name and its recipe
  versions: dict[str, str]  # {package: version}
  hardware: str
  run_seconds: float
  created: str
  sections: list[Section]


def write(path: pathlib.Path, page: Page):
  """Writes the page; raises OSError where a figure cannot be read."""
  with replacing(path) as file:
    file.write(to_html(page))


def to_html(page: Page) -> str:
  head = [
    element("meta", charset="utf-8"),
    element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
    element("meta", name="viewport", content="width=device-width, initial-scale=1"),
    element("meta", name="color-scheme", content="light dark"),
    element("title", page.title),
    element("style", Html(sheet())),
  ]
  body = element(
    "main",
    element("header", element("h1", page.title), element("p", page.lead, class_="lead")),
    _overview(page),
    *map(_experiment, page.sections),
    _how_it_was_run(page),
  )
  return "<!DOCTYPE html>\n" + element(
    "html", element("head", *head), "\n", element("body", "\n", body, "\n"), "\n", lang="en"
  )


def _overview(page: Page) -> Html:
  """The verdicts: of each experiment in a line, then of everything that must be seen."""
  passed = sum(section.verdict.passed for section in page.sections)
  return element(
    "section",
    element("h2", "Verdicts", id="verdicts"),
    element(
      "p",
      f"{passed} of {len(page.sections)} experiments passed. {page.created}, "
      f"in {_duration(page.run_seconds)} on {page.hardware}.",
    ),
    element("ul", *map(_line, page.sections), class_="overview"),
    element("p", _HOW_TO_READ, class_="quiet"),
    *(
      joined(
        "\n",
        element("h3", section.title, " ", badge(section.verdict.passed)),
        verdicts(section.verdict, f"What must be seen in {section.title}"),
      )
      for section in page.sections
    ),
  )


def _line(section: Section) -> Html:
  judged = section.verdict
  holding = sum(claim.passed for claim in judged.claims)
  counts = [f"claims that hold: {holding} of {len(judged.claims)}"]
  if judged.negative:
    failed = sum(map(judged.failed_as_it_must, judged.negative))
    counts.append(f"negative cells that failed, as they must: {failed} of {len(judged.negative)}")
  if section.failed_runs:
    counts.append(f"runs without an end: {len(section.failed_runs)}")
  return element(
    "li",
    element("span", badge(judged.passed)),
    element("a", section.title, href=f"#{section.id}"),
    element("span", "; ".join(counts), class_="quiet"),
  )


def _experiment(section: Section) -> Html:
  parts = [
    element("h2", section.title, " ", badge(section.verdict.passed)),
    element("p", section.question, class_="lead"),
    element("blockquote", element("p", "The paper: ", section.claim)),
  ]
  if section.figures:
    parts.append(element("h3", "Figures"))
    parts.append(element("div", *map(_figure, section.figures), class_="figures"))
  if section.table.rows:
    parts += [element("h3", "Results"), results(section.table, f"Results of {section.title}")]
  if section.failed_runs:
    ends = [f"{run.cell}, seed {run.seed}: {run.failed}" for run in section.failed_runs]
    parts += [element("h3", "Runs without an end")]
    parts += [element("ul", *(element("li", end) for end in ends))]
  return joined("\n", element("section", *parts, id=section.id))


def _figure(picture: Picture) -> Html:
  """The figure as an image of its own: in the page, identifiers of several SVGs would collide."""
  path = picture.path
  if path.suffix == ".svg" and path.stat().st_size > LARGEST_SVG:
    path = path.with_suffix(".png")
  content = path.read_bytes()
  kind, (width, height) = (
    ("svg+xml", _svg_size(content)) if path.suffix == ".svg" else ("png", _png_size(content))
  )
  data = base64.b64encode(content).decode("ascii")
  source = f"data:image/{kind};base64,{data}"
  floor = f"min-width: {round(_LEAST_SCALE * width)}px"
  image = element("img", src=source, alt=picture.alt, width=width, height=height, style=floor)
  caption = element("figcaption", picture.title)
  return joined("\n", element("figure", element("div", image), caption))


def _svg_size(content: bytes) -> tuple[int, int]:
  """In pixels of 1/96 inch; the view box is in points."""
  view_box = re.search(rb'viewBox="0 0 ([\d.]+) ([\d.]+)"', content)
  if view_box is None:
    raise ValueError('An SVG must have a viewBox="0 0 WIDTH HEIGHT"; got none.')
  width, height = (round(float(side) * 96 / 72) for side in view_box.groups())
  return width, height


def _png_size(content: bytes) -> tuple[int, int]:
  """In pixels of 1/96 inch, of a PNG with `DPI` dots per inch."""
  width, height = struct.unpack(">II", content[16:24])  # where the header has them
  return round(width * 96 / DPI), round(height * 96 / DPI)


def _how_it_was_run(page: Page) -> Html:
  facts = {"hardware": page.hardware, "run time": _duration(page.run_seconds)} | page.versions
  recipes = [
    element(
      "details",
      element("summary", name),
      element("pre", json.dumps(config, indent=2, ensure_ascii=False, default=str)),
    )
    for name, config in page.configs
  ]
  return joined(
    "\n",
    element(
      "section",
      element("h2", "How it was run", id="how"),
      element("h3", "Command"),
      element("pre", element("code", page.command), class_="command"),
      element("h3", "Machine and versions"),
      element("dl", *(joined(element("dt", k), element("dd", v)) for k, v in facts.items())),
      element("h3", "Configs"),
      *recipes,
    ),
  )


def _duration(seconds: float) -> str:
  if seconds < 60:
    return f"{seconds:.1f} s"
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
