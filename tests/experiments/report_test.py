"""The page, read as a browser would and as somebody who does not see it would."""

import base64
import html.parser
import re

import matplotlib
import numpy as np
import pytest

from nc_jax.experiments import claims, report, report_style
from nc_jax.experiments.figure_files import save
from nc_jax.experiments.results import Cell, Run
from nc_jax.figure_style import STYLE
from tests.experiments.made_up_page import NEGATIVE, made_up_figure, made_up_page

VOID = {"img", "meta", "wbr"}


class Reader(html.parser.HTMLParser):
  """Elements in order as (tag, attributes, text within); fails where a tag is not closed."""

  def __init__(self, text: str):
    super().__init__()
    self.elements, self._open = [], []
    self.feed(text)
    self.close()
    assert not self._open

  def handle_starttag(self, tag, attrs):
    assert len(dict(attrs)) == len(attrs)
    self.elements.append([tag, dict(attrs), ""])
    if tag not in VOID:
      self._open.append(self.elements[-1])

  def handle_endtag(self, tag):
    assert self._open.pop()[0] == tag

  def handle_data(self, data):
    for element in self._open:
      element[2] += data

  def all(self, *tags):
    return [element for element in self.elements if element[0] in tags]

  def rows(self) -> list[list[str]]:
    """The texts of the cells of every table row."""
    rows = []
    for tag, _, text in self.elements:
      if tag == "tr":
        rows.append([])
      elif tag in ("td", "th"):
        rows[-1].append(text)
    return rows


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
  with matplotlib.rc_context(STYLE):
    return made_up_page(tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def reader(made_up, tmp_path_factory):
  path = tmp_path_factory.mktemp("page") / "report.html"
  report.write(path, made_up)
  text = path.read_text("utf-8")
  assert text.startswith("<!DOCTYPE html>\n<html lang=")
  return Reader(text)


def test_every_claim_stands_in_a_row_with_its_numbers(made_up, reader):
  rows = reader.rows()
  for section in made_up.sections:
    for claim in section.verdict.claims:
      assert [
        claim.item,
        "✓ pass" if claim.passed else "✗ FAIL",
        claim.text,
        claim.cell,
        claims.three_digits(claim.measured),
        f"≥ {claims.three_digits(claim.threshold)}",
        claims.spread(claim.seeds),
      ] in rows
  states = [row[1] for row in rows if row[0].startswith("E1.")]
  assert "✓ pass" in states and "✗ FAIL" in states  # else one word was not tried


def test_verdicts_come_before_figures_and_the_command_last(made_up, reader):
  kinds = [(tag, text) for tag, _, text in reader.all("h1", "h2", "h3")]
  assert kinds[:2] == [("h1", made_up.title), ("h2", "Verdicts")]
  sections = [text for tag, text in kinds if tag == "h2"]
  for section, heading in zip(made_up.sections, sections[1:], strict=False):
    assert heading == f"{section.title} {'✓ pass' if section.verdict.passed else '✗ FAIL'}"
  assert sections[-1] == "How it was run" and len(sections) == len(made_up.sections) + 2
  assert [text for tag, _, text in reader.all("code")] == [made_up.command]
  texts = [text for tag, _, text in reader.all("dt", "dd", "summary", "li", "p", "figcaption")]
  for words in (
    made_up.lead,
    made_up.hardware,
    "20 min 34 s",
    "0.1.0 at bcaab31",
    made_up.configs[1][0],
    made_up.sections[0].question,
    f"The paper: {made_up.sections[0].claim}",
    made_up.sections[0].figures[0].title,
    "cifar10/resnet18/squared_error, seed 3: loss nan at step 31",
  ):
    assert words in texts, words
  assert reader.all("pre")[-1][2].startswith('{\n  "data": {')


@pytest.mark.parametrize("refuted", (True, False))
def test_a_negative_cell_passes_by_failing(made_up, refuted):
  made = [
    claims.per_seed("E1.1", "good", "holds", [3.0, 2.0], ">=", 1),
    claims.per_seed("E1.1", NEGATIVE, "of the negative", [0.5, 0.6 if refuted else 3], ">=", 1),
  ]
  judged = claims.verdict(made, [Cell("good", {}), Cell(NEGATIVE, {}, negative=True)])
  page = made_up._replace(sections=[made_up.sections[0]._replace(verdict=judged, figures=[])])
  reader = Reader(report.to_html(page))
  about = next(row for row in reader.rows() if row[0].startswith("Negative cell"))
  words = "✓ failed, as it must" if refuted else "✗ DID NOT FAIL"
  assert about == [f"Negative cell: {NEGATIVE} {words}"]
  (row,) = (row for row in reader.rows() if "of the negative" in row)
  assert row[1] == ("✓ failed, as it must" if refuted else "– undecided")
  line = reader.all("li")[0][2]
  assert line.startswith("✓ pass" if refuted else "✗ FAIL")
  assert f"negative cells that failed, as they must: {int(refuted)} of 1" in line


def test_a_measured_number_stands_with_its_range_and_bounds_below(made_up):
  row = {"cell": "a/b", "n": 150} | claims.measured("V", [1.0, 2.0]) | {"note": "x"}
  row |= claims.measured("r", [3.0]) | {"r low": 2.5, "r high": 3.5}
  table = claims.Table.of([row, {"cell": "c", "V": float("nan"), "note": "y"}])
  section = made_up.sections[0]._replace(table=table, figures=[])
  rows = Reader(report.to_html(made_up._replace(sections=[section]))).rows()
  assert rows[-3:] == [
    ["cell", "n", "V", "note", "r"],
    ["a/b", "150", "1.501 to 2", "x", "3[2.50, 3.50]"],
    ["c", "–", "–", "y", "–"],
  ]


def test_nothing_is_loaded_from_elsewhere_and_every_link_leads_somewhere(reader):
  assert not reader.all("script", "link", "iframe", "object", "embed", "base", "form")
  ids = [attributes["id"] for _, attributes, _ in reader.elements if "id" in attributes]
  assert len(ids) == len(set(ids))
  for tag, attributes, _ in reader.elements:
    assert not any(name.startswith("on") or name in ("srcset", "action") for name in attributes)
    assert attributes.get("src", "data:").startswith("data:"), tag
    assert attributes.get("href", "#").removeprefix("#") in ["", *ids], tag
  assert len(reader.all("a")) == 5
  (style,) = reader.all("style")
  assert "url(" not in style[2] and "@import" not in style[2]
  policies = [
    attributes["content"]
    for _, attributes, _ in reader.all("meta")
    if attributes.get("http-equiv") == "Content-Security-Policy"
  ]
  assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_whoever_does_not_see_it_is_told(reader):
  assert reader.all("html")[0][1]["lang"] == "en"
  assert any(attributes.get("name") == "viewport" for _, attributes, _ in reader.all("meta"))
  levels = [int(tag[1]) for tag, _, _ in reader.all("h1", "h2", "h3", "h4")]
  assert levels.count(1) == 1 and levels[0] == 1
  assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
  images = [attributes for _, attributes, _ in reader.all("img")]
  assert len(images) == 12
  assert all(image["alt"].startswith("V falls: ") for image in images)
  assert all(attributes["scope"] for _, attributes, _ in reader.all("th"))
  assert all(attributes["aria-label"] for _, attributes, _ in reader.all("table") if attributes)
  badges = [e for e in reader.all("span") if "badge" in e[1].get("class", "")]
  assert len(badges) > 40 and all(text[0] in "✓✗–" and text[2:] for _, _, text in badges)


def test_every_text_is_escaped(tmp_path):
  nasty = """<script>alert("x")</script> & 'y' <b"""
  with matplotlib.rc_context(STYLE):
    _, svg = save(tmp_path, {"figure": made_up_figure(np.random.default_rng(0), 1, 20)})
  claim = claims.Claim(nasty, nasty, nasty, 1.0, "<=", 2.0)
  negative = claim._replace(cell=nasty + "!", measured=3.0)
  section = report.Section(
    id=nasty,
    title=nasty,
    question=nasty,
    claim=nasty,
    verdict=claims.verdict([claim, negative], [Cell(nasty + "!", {}, negative=True)]),
    table=claims.Table([nasty, "V"], [[nasty, 1.0]]),
    figures=[report.Picture(svg, nasty, nasty)],
    failed_runs=[Run(nasty, 0, [], nasty)],
  )
  page = report.Page(
    *(nasty, nasty, nasty, [(nasty, {nasty: nasty})], {nasty: nasty}, nasty, 1.0, nasty, [section])
  )
  reader = Reader(report.to_html(page))
  assert not reader.all("script", "b")
  cells = [text for row in reader.rows() for text in row]
  assert cells.count(nasty) == 3 + 2 + 2  # of a claim, of the negative cell's, of the table
  assert reader.all("img")[0][1]["alt"] == nasty
  assert reader.all("section")[1][1]["id"] == nasty
  for tag in ("title", "h1", "summary", "code", "dt", "dd", "figcaption"):
    assert nasty in [text for _, _, text in reader.all(tag)], tag


def test_a_large_svg_gives_way_to_its_png_of_the_same_size_on_screen(
  made_up, tmp_path, monkeypatch
):
  with matplotlib.rc_context(STYLE):
    png, svg = save(tmp_path, {"figure": made_up_figure(np.random.default_rng(0), 1, 20)})
  section = made_up.sections[0]._replace(figures=[report.Picture(svg, "title", "alt")])
  page = made_up._replace(sections=[section])
  sizes = []
  for limit, path, kind in (
    (svg.stat().st_size, svg, "svg+xml"),
    (svg.stat().st_size - 1, png, "png"),
  ):
    monkeypatch.setattr(report, "LARGEST_SVG", limit)
    ((_, image, _),) = Reader(report.to_html(page)).all("img")
    header, data = image["src"].split(",")
    assert header == f"data:image/{kind};base64"
    assert base64.b64decode(data, validate=True) == path.read_bytes()
    sizes.append((image["width"], image["height"]))
  assert sizes == [(str(round(3.2 * 96)), str(3 * 96))] * 2  # the figure is 3.2 by 3 inches


def test_text_stands_out_from_its_ground_in_light_and_in_dark():
  for scheme, palette in report_style.PALETTES.items():
    for text, grounds in report_style.GROUNDS.items():
      for ground in grounds:
        assert contrast(palette[text], palette[ground]) >= 4.5, (scheme, text, ground)
  assert contrast("#000000", "#ffffff") == pytest.approx(21)
  assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # just too little


def contrast(one: str, other: str) -> float:
  """WCAG 2.2, https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio"""

  def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

  dark, light = sorted((luminance(one), luminance(other)))
  return (light + 0.05) / (dark + 0.05)


def test_the_style_sheet_uses_the_colours_of_both_palettes_and_no_other_for_text():
  sheet = report_style.sheet()
  light, dark = report_style.PALETTES["light"], report_style.PALETTES["dark"]
  assert light.keys() == dark.keys() == set(re.findall(r"var\(--([\w-]+)\)", sheet))
  assert all(sheet.count(f"--{name}: ") == 2 for name in light)
  in_dark = sheet.index("@media (prefers-color-scheme: dark)")
  assert sheet.index(f"--page: {light['page']}") < in_dark < sheet.index(f"--page: {dark['page']}")
  assert "color-scheme: light dark" in sheet
  coloured = set(re.findall(r"[{;]\s*color: ([^;]+);", sheet))
  assert coloured == {f"var(--{name})" for name in report_style.GROUNDS}
  assert sheet.count("{") == sheet.count("}")
