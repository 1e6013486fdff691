"""Rows of a benchmark: to stdout as they come, to CSV afterwards."""

import csv
import dataclasses
import pathlib
from collections.abc import Sequence

from nc_jax.benchmarks.timing import Timing
from nc_jax.files import replacing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timed:
  """One thing timed: the first columns of every benchmark's table.

  Attributes:
    what: was timed.
    runs: samples of which median_s, min_s and max_s are taken.
    compile_s: tracing and compiling in the first call.
    median_s: seconds, of a call unless the table says otherwise.
    min_s, max_s: the spread.
    recompiled: programs compiled after the first call; 0 is as it should be.
  """

  what: str
  runs: int
  compile_s: float
  median_s: float
  min_s: float
  max_s: float
  recompiled: int = 0

  @classmethod
  def of(cls, what: str, timing: Timing, **columns):
    """The row of a timing; `columns` are those of the subclass."""
    return cls(
      what=what,
      runs=len(timing.samples),
      compile_s=timing.compiling,
      median_s=timing.median,
      min_s=min(timing.samples),
      max_s=max(timing.samples),
      recompiled=timing.recompiled,
      **columns,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Timed):
  """One thing of `metrics.WHAT` timed at one size. None where a column makes no sense.

  Attributes:
    size, n, d, k: the size.
    gb_per_s: bytes of features, times the passes over them, per second.
    gflop_per_s: nominal: 2 N D² for XᵀX, symmetry used or not; 2 N K D per score matrix.
    x_product: time relative to limit/product of the same round.
    share_of_blas, share_of_read: speed relative to limit/blas and limit/read.
    x_nc_jax: time relative to process/nc_jax.
    data_mib, peak_mib: the arrays handed in, and the largest memory of the whole process.
    scaled: True if the time was measured on a part and scaled up.
  """

  size: str
  n: int
  d: int
  k: int
  gb_per_s: float | None = None
  gflop_per_s: float | None = None
  x_product: float | None = None
  share_of_blas: float | None = None
  share_of_read: float | None = None
  x_nc_jax: float | None = None
  data_mib: float | None = None
  peak_mib: float | None = None
  scaled: bool = False


HEADINGS = (
  f"{'':20}{'compile':>9}{'median':>11}{'min':>11}{'max':>11}{'GB/s':>8}{'GFLOP/s':>9}"
  f"{'/product':>10}{'of BLAS':>9}{'of read':>9}"
)


def to_line(row: Row) -> str:
  """A row of the printed table, under HEADINGS."""
  text = (
    f"{row.what + '*' * row.scaled:20}{row.compile_s:>7.2f} s{seconds(row.median_s):>11}"
    f"{seconds(row.min_s):>11}{seconds(row.max_s):>11}{number(row.gb_per_s):>8}"
    f"{number(row.gflop_per_s):>9}{number(row.x_product):>10}{percent(row.share_of_blas):>9}"
    f"{percent(row.share_of_read):>9}"
  )
  notes = reservations(row)
  if row.peak_mib is not None:
    notes.append(f"peak {row.peak_mib:,.0f} MiB, {row.data_mib:,.0f} of them data")
  if row.x_nc_jax is not None:
    notes.append(f"{row.x_nc_jax:.1f} x nc_jax")
  return f"{text}  {', '.join(notes)}".rstrip()


def reservations(row) -> list[str]:
  """Why a row of few runs, or one that compiled again, is to be believed less."""
  notes = [f"{row.runs} run{'s' * (row.runs > 1)}"] if row.runs < 3 else []
  if row.recompiled:
    notes.append(f"recompiled {row.recompiled} times")
  return notes


def in_words(facts: dict) -> str:
  return "  ".join(f"{key} {value}" for key, value in facts.items())


def write_csv(path: pathlib.Path, rows: Sequence, facts: dict):
  """One line per row, each with the facts of the run, so that files can be joined.

  `rows` are of one dataclass, such as Row; its fields are the columns.
  """
  columns = [field.name for field in dataclasses.fields(rows[0])]
  with replacing(path) as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*columns, *facts])
    for row in rows:
      values = dataclasses.asdict(row).values()
      writer.writerow([*("" if v is None else _exact(v) for v in values), *facts.values()])


def _exact(value):
  return f"{value:.6g}" if isinstance(value, float) else value


def seconds(value: float) -> str:
  if value >= 0.9995:
    return f"{value:.3g} s" if value < 1000 else f"{value:.0f} s"
  return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} us"


def number(value: float | None) -> str:
  if value is None:
    return "-"
  return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.1f}"


def percent(value: float | None) -> str:
  return "-" if value is None else f"{100 * value:.0f} %"
