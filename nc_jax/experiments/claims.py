"""What must be seen: numbers beside thresholds, tables of many seeds, and the verdict on both."""

import csv
import json
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from nc_jax.experiments.results import Cell, Run
from nc_jax.files import replacing


class Claim(NamedTuple):
  """One item of an experiment, measured in one cell or over several."""

  item: str  # "E1.2"
  cell: str  # or what it is measured over, such as "every n, updates"
  text: str
  measured: float  # the worst seed's, where it is judged per seed
  relation: str  # "<=" or ">="
  threshold: float
  seeds: Sequence[float] = ()  # each seed's number
  low: float = math.nan  # 95 % bootstrap bounds over examples of what is measured
  high: float = math.nan

  @property
  def passed(self) -> bool:
    """False for nan, whichever way the relation points."""
    return self._holds(self.measured)

  @property
  def refuted(self) -> bool:
    """It fails in every seed, and by a number: nan is no evidence, neither for nor against."""
    numbers = self.seeds or [self.measured]
    return not any(math.isnan(number) or self._holds(number) for number in numbers)

  def _holds(self, number: float) -> bool:
    holds = number <= self.threshold if self.relation == "<=" else number >= self.threshold
    return bool(holds)


def per_seed(
  item: str, cell: str, text: str, seeds: Iterable[float], relation: str, threshold: float
) -> Claim:
  """A claim that each seed must satisfy: measured is the worst of them, nan if one is nan."""
  numbers = [float(number) for number in seeds]
  worst = np.max if relation == "<=" else np.min  # both hand nan on
  measured = float(worst(numbers)) if numbers else math.nan
  return Claim(item, cell, text, measured, relation, threshold, numbers)


class Table(NamedTuple):
  """Columns of text; of whole numbers (int), which are given; and of floats, which were measured.

  Beside a column NAME may stand NAME min and NAME max, its range over seeds, and NAME low and
  NAME high, its 95 % bootstrap bounds over examples.
  """

  columns: list[str]
  rows: list[list[str | int | float]]

  @classmethod
  def of(cls, rows: Sequence[dict[str, str | int | float]]) -> "Table":
    """From rows {column: value}; what a row lacks is nan."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return cls(columns, [[row.get(column, math.nan) for column in columns] for row in rows])

  def to_csv(self, path: pathlib.Path):
    """Full precision, a line per row, a column per number."""
    with replacing(path) as file:
      writer = csv.writer(file, lineterminator="\n")
      writer.writerow(self.columns)
      writer.writerows(self.rows)

  def to_markdown(self) -> str:
    """Three digits, a measured number in one column: "mean (min to max) [low, high]"."""
    beside = {f"{name} {end}" for name in self.columns for end in ENDS}
    names = [name for name in self.columns if name not in beside]
    lines = [names, ["---"] * len(names)]
    for row in self.rows:
      values = dict(zip(self.columns, row, strict=True))
      lines.append([_in_words(name, values) for name in names])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


ENDS = ("min", "max", "low", "high")


def measured(name: str, seeds: Sequence[float]) -> dict[str, float]:
  """The columns NAME, NAME min and NAME max: a number's mean over seeds, and its range.

  Args:
    name: the column.
    seeds: each seed's number. One that lacks it (nan) makes all three nan.
  """
  seeds = np.asarray(seeds, float) if np.size(seeds) else np.array([np.nan])
  ends = {name: seeds.mean(), f"{name} min": seeds.min(), f"{name} max": seeds.max()}
  return {column: float(value) for column, value in ends.items()}


def in_brackets(low: float, high: float) -> str:
  """Bounds as "[0.0061, 0.0072]"; nothing where there are none."""
  return "" if math.isnan(low) else f"[{three_digits(low)}, {three_digits(high)}]"


def spread(values: Sequence[float]) -> str:
  """Mean and range over seeds: "0.00640 (0.00600 to 0.00690)"."""
  return _in_words("", measured("", values))


def three_digits(value: float) -> str:
  """Whole numbers as they are, others to three significant digits, nan as a dash."""
  if not math.isfinite(value):
    return "–" if math.isnan(value) else str(value)
  if value == int(value) and abs(value) < 1e6:
    return str(int(value))
  if 999.5 <= abs(value) < 1e6:
    return f"{value:.0f}"
  return f"{value:#.3g}".removesuffix(".")


def _in_words(name: str, values: dict[str, str | int | float]) -> str:
  """A number with its range, if there is such, and its bounds."""
  if isinstance(values[name], str):
    return values[name].replace("|", "\\|")
  least, most, low, high = (values.get(f"{name} {end}", math.nan) for end in ENDS)
  parts = [three_digits(values[name])]
  if least != most and not math.isnan(least):
    parts.append(f"({three_digits(least)} to {three_digits(most)})")
  return " ".join([*parts, in_brackets(low, high)]).rstrip()


class Verdict(NamedTuple):
  claims: list[Claim]  # of cells whose claims must hold, and over several cells
  negative: dict[str, list[Claim]]  # of each cell whose claims must fail

  @property
  def passed(self) -> bool:
    """Every claim holds, of which there must be some, and each negative cell refutes one."""
    holds = bool(self.claims) and all(claim.passed for claim in self.claims)
    return holds and all(self.failed_as_it_must(cell) for cell in self.negative)

  def failed_as_it_must(self, cell: str) -> bool:
    return any(claim.refuted for claim in self.negative[cell])


def verdict(claims: Iterable[Claim], cells: Iterable[Cell]) -> Verdict:
  """Sorts the claims of an experiment by what is expected of their cells."""
  negative: dict[str, list[Claim]] = {cell.name: [] for cell in cells if cell.negative}
  positive = []
  for claim in claims:
    negative.get(claim.cell, positive).append(claim)
  return Verdict(positive, negative)


def write(
  judged: Verdict, path: pathlib.Path, *, experiment: str, title: str, failed_runs: Iterable[Run]
):
  """Writes verdict.json; nan and inf are strings there, as Python's float() reads them."""
  record = {
    "experiment": experiment,
    "title": title,
    "passed": judged.passed,
    "claims": [_record(claim) for claim in judged.claims],
    "negative": [
      {
        "cell": cell,
        "failed_as_it_must": judged.failed_as_it_must(cell),
        "claims": [_record(claim) | {"refuted": claim.refuted} for claim in claims],
      }
      for cell, claims in judged.negative.items()
    ],
    "failed_runs": [
      {"cell": run.cell, "seed": run.seed, "failed": run.failed} for run in failed_runs
    ],
  }
  with replacing(path) as file:
    json.dump(record, file, indent=2, allow_nan=False, ensure_ascii=False)
    file.write("\n")


def _record(claim: Claim) -> dict:
  return claim._asdict() | {
    "measured": _number(claim.measured),
    "low": _number(claim.low),
    "high": _number(claim.high),
    "seeds": [_number(number) for number in claim.seeds],
    "passed": claim.passed,
  }


def _number(value: float) -> float | str:
  return float(value) if math.isfinite(value) else str(float(value))
