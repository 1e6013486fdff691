"""The tables of the report page: what must be seen, and what was measured."""

import math
from collections.abc import Iterable

from nc_jax.experiments.claims import (
  ENDS,
  Claim,
  Table,
  Verdict,
  in_brackets,
  spread,
  three_digits,
)
from nc_jax.experiments.markup import Html, breakable, element, joined

_HEADINGS = (  # of the verdicts: heading, whether numbers stand below it
  ("Item", False),
  ("Verdict", False),
  ("What must be seen", False),
  ("Cell", False),
  ("Measured [95 %]", True),
  ("Required", True),
  ("Seeds: mean (range)", True),
)


def badge(passed: bool, good: str = "pass", bad: str = "FAIL") -> Html:
  """Told by its sign and its word; the colour repeats them."""
  sign, word, kind = ("✓", good, "pass") if passed else ("✗", bad, "fail")
  return element("span", f"{sign} {word}", class_=f"badge {kind}")


def verdicts(judged: Verdict, label: str) -> Html:
  """A row per claim; those of a negative cell below a row that says how it did.

  Args:
    judged: of one experiment.
    label: the name of the table for those who hear it.
  """
  bodies = []
  if judged.claims:
    rows = [_claim(claim, badge(claim.passed)) for claim in judged.claims]
    bodies.append(element("tbody", *rows))
  for cell, claims in judged.negative.items():
    state = badge(judged.failed_as_it_must(cell), "failed, as it must", "DID NOT FAIL")
    name = element(
      "th",
      f"Negative cell: {cell} ",
      state,
      scope="rowgroup",
      class_="about",
      colspan=len(_HEADINGS),
    )
    rows = [_claim(claim, _of_negative(claim)) for claim in claims]
    bodies.append(element("tbody", _row(name), *rows))
  head = element("thead", _heading_row(_HEADINGS))
  return joined("\n", element("table", head, *bodies, class_="verdicts", aria_label=label))


def _claim(claim: Claim, state: Html) -> Html:
  sign = _SIGNS[claim.relation]
  return _row(
    element("th", claim.item, scope="row"),
    element("td", state, class_="state"),
    element("td", claim.text, class_="text"),
    element("td", breakable(claim.cell), class_="cell", data_label="Cell"),
    element(
      "td",
      three_digits(claim.measured),
      *map(_below, filter(None, [in_brackets(claim.low, claim.high)])),
      class_="number",
      data_label="Measured",
    ),
    element(
      "td", f"{sign} {three_digits(claim.threshold)}", class_="number", data_label="Required"
    ),
    element("td", spread(claim.seeds) if claim.seeds else "–", class_="number", data_label="Seeds"),
  )


_SIGNS = {"<=": "≤", ">=": "≥"}


def _of_negative(claim: Claim) -> Html:
  """One refuted claim is enough, so neither of the other states is a fault by itself."""
  if claim.refuted:
    return badge(True, "failed, as it must")
  return element("span", "– holds" if claim.passed else "– undecided", class_="badge neither")


def results(table: Table, label: str) -> Html:
  """A measured number with its range over seeds and its bounds below it: see `claims.measured`."""
  names = [name for name in table.columns if not _is_end(name, table.columns)]
  rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
  numeric = {name: not any(isinstance(row[name], str) for row in rows) for name in names}
  body = [
    _row(
      *(
        element("th", *_in_words(name, row), scope="row")
        if name == names[0]
        else element("td", *_in_words(name, row), class_="number" if numeric[name] else None)
        for name in names
      )
    )
    for row in rows
  ]
  head = element("thead", _heading_row([(name, numeric[name]) for name in names]))
  box = element(
    "div",
    element("table", head, element("tbody", *body)),
    class_="scroll",
    tabindex=0,  # so that the keyboard can scroll it
    role="region",
    aria_label=label,
  )
  return joined("\n", box, *_legend(table.columns))


def _is_end(name: str, columns: list[str]) -> bool:
  base, _, end = name.rpartition(" ")
  return end in ENDS and base in columns


def _in_words(name: str, row: dict[str, str | float]) -> list[str]:
  if isinstance(row[name], str):
    return [breakable(row[name])]
  least, most, low, high = (row.get(f"{name} {end}", float("nan")) for end in ENDS)
  parts = [three_digits(row[name])]
  if least != most and not math.isnan(least):
    parts.append(_below(f"{three_digits(least)} to {three_digits(most)}"))
  return [*parts, *map(_below, filter(None, [in_brackets(low, high)]))]


def _below(text: str) -> Html:
  return element("span", text, class_="range")


def _legend(columns: list[str]) -> list[Html]:
  ends = {name.rpartition(" ")[2] for name in columns if _is_end(name, columns)}
  text = "Means over seeds" + "; below them the range over seeds" * ("min" in ends)
  text += "; in brackets the 95 % bootstrap bounds over examples" * ("low" in ends)
  return [element("p", f"{text}.", class_="quiet")] if ends else []


def _heading_row(headings: Iterable[tuple[str, bool]]) -> Html:
  cells = (
    element("th", name, scope="col", class_="number" if numeric else None)
    for name, numeric in headings
  )
  return _row(*cells)


def _row(*cells: Html) -> Html:
  return joined("\n", element("tr", *cells))
