"""Phase diagrams: where the runs of a sweep ended, over the settings that were swept."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from nc_jax.figure_style import BLUE, ORANGE

_COLOURS = matplotlib.colormaps["viridis"]
_MOST_NUMBERS = 100  # points of one map; the numbers of more could not be read
_MOST_TICKS = 20
_MOST_SLICES = 12  # maps of one value
_WIDEST = 4  # panels beside each other

# What the legend says, where a panel holds it.
_NONE_ENDED = "failed: no seed ended"
_SOME_ENDED = "some seeds failed: mean over the others"
_HATCHED = {"facecolor": "0.92", "edgecolor": "0.4", "hatch": "////", "linewidth": 0}
_CROSS = {"marker": "x", "linestyle": "none"}


class _Point(NamedTuple):
  """The runs at one point of the sweep: mean and range over the seeds that ended."""

  mean: float
  low: float
  high: float
  ended: int
  failed: int


def heat_map(
  table: Sequence[dict[str, Any]],
  x: str,
  y: str | None,
  values: str | Sequence[str],
  others: Sequence[str] = (),
) -> Figure:
  """A map of each value over two settings, or lines over one; means over the seeds that ended.

  The colours of a value are logarithmic where it is positive and spans more than a decade; they
  are the same in all maps of that value. A point where no seed ended is hatched, a point that
  the table lacks is empty, and a mean of nan or inf is written down on no colour.

  Args:
    table: a row per run with the swept settings, the values, and `failed`: why it has no end;
      None or absent where it has one. Rows that agree in all settings are seeds.
    x, y: the settings along the axes; without `y` the values are drawn as lines over `x`.
    values: what is shown, such as ["V(train)", "V(test)"]: a panel each.
    others: further swept settings. Each value has a panel for each of their combinations, of
      which the first 12 are drawn; where there are more, the title says so.
  """
  values = [values] if isinstance(values, str) else list(values)
  along = [x] if y is None else [x, y]
  _check(table, [*along, *others], values)
  columns, rows = _levels(table, x), [None] if y is None else _levels(table, y)
  slices = list(dict.fromkeys(_at(row, others) for row in table))
  shown = slices[:_MOST_SLICES]
  size = _size_of_lines(columns) if y is None else _size_of_map(columns, rows)
  figure, panels = _panels(len(values), len(shown), size)
  legend = {}
  for value, panels_of_value in zip(values, panels, strict=True):
    points = {place: _points(table, along, others, place, value) for place in shown}
    means = [point.mean for maps in points.values() for point in maps.values()]
    norm = _norm(means)
    for place, axes in zip(shown, panels_of_value, strict=True):
      if y is None:
        legend |= _draw_lines(axes, points[place], columns, norm)
      else:
        legend |= _draw_map(axes, points[place], columns, rows, norm)
        axes.set_ylabel(y if axes.get_subplotspec().is_first_col() else "")
      axes.set_xlabel(x)
      names = [f"{name} = {_label(level)}" for name, level in zip(others, place, strict=True)]
      axes.set_title("\n".join([value, *names]))
    if y is not None and np.isfinite(means).any():
      figure.colorbar(ScalarMappable(norm, _COLOURS), ax=panels_of_value, label=value)
  figure.suptitle(_over_seeds(table, [*along, *others], len(shown), len(slices)))
  if legend:
    figure.legend(legend.values(), legend.keys(), loc="outside lower center")
  return figure


def _label(level, digits: int = 6) -> str:
  """A swept value in words: 0.0005, 1e-06, resnet18, 128 128."""
  if isinstance(level, float):
    return f"{level:.{digits}g}"
  return " ".join(map(_label, level)) if isinstance(level, tuple) else str(level)


def _check(table, settings, values):
  if not table:
    raise ValueError("table must have a row per run; got none.")
  for name in settings:
    if any(name not in row for row in table):
      raise ValueError(f"Every row must have the setting {name!r}; got {sorted(table[0])}.")
  for name in values:
    if not any(name in row for row in table):
      raise ValueError(f"values must be among {sorted(table[0])}; got {name!r}.")


def _at(row: dict, settings: Iterable[str]) -> tuple:
  """Where a run lies in the sweep. A list, such as of widths, becomes a tuple."""
  levels = (row[name] for name in settings)
  return tuple(tuple(level) if isinstance(level, list) else level for level in levels)


def _levels(table, name) -> list:
  """The values of a setting: numbers in order, then others as they come."""
  levels = list(dict.fromkeys(_at(row, [name])[0] for row in table))
  return sorted(filter(_is_number, levels)) + [v for v in levels if not _is_number(v)]


def _is_number(level) -> bool:
  return isinstance(level, int | float) and not isinstance(level, bool)


def _points(table, along, others, place, value) -> dict[tuple, _Point]:
  """{(x,) or (x, y): what its seeds ended in} on one map."""
  runs = defaultdict(list)
  for row in table:
    if _at(row, others) == place:
      runs[_at(row, along)].append(row)
  return {at: _point(seeds, value) for at, seeds in runs.items()}


def _point(seeds: list[dict], value: str) -> _Point:
  numbers = [row.get(value, math.nan) for row in seeds if not row.get("failed")]
  failed = len(seeds) - len(numbers)
  if not numbers:
    return _Point(math.nan, math.nan, math.nan, 0, failed)
  return _Point(float(np.mean(numbers)), min(numbers), max(numbers), len(numbers), failed)


def _norm(means: list[float]) -> Normalize:
  finite = [mean for mean in means if math.isfinite(mean)] or [0, 1]
  low, high = min(finite), max(finite)
  return LogNorm(low, high) if 0 < 10 * low < high else Normalize(low, high)


def _draw_map(axes, points: dict[tuple, _Point], columns: list, rows: list, norm) -> dict:
  """One map; returns what it adds to the legend."""
  legend = {}
  grid = np.full((len(rows), len(columns)), np.nan)
  for (column, row), point in points.items():
    i, j = rows.index(row), columns.index(column)
    grid[i, j] = point.mean
    if not point.ended:
      axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, **_HATCHED))
      legend[_NONE_ENDED] = Patch(**_HATCHED)
      continue
    ink = _ink(point.mean, norm)
    if len(points) <= _MOST_NUMBERS:
      axes.text(j, i, _number(point.mean), color=ink, fontsize=7, ha="center", va="center")
    if point.failed:
      axes.plot(j + 0.4, i + 0.35, color=ink, markersize=4, **_CROSS)
      legend[_SOME_ENDED] = Line2D([], [], color="black", markersize=4, **_CROSS)
  edges = [np.arange(len(levels) + 1) - 0.5 for levels in (columns, rows)]
  masked = np.ma.masked_invalid(grid)
  axes.pcolormesh(*edges, masked, norm=norm, cmap=_COLOURS, edgecolors="white", linewidth=0.5)
  axes.grid(False)
  _name_ticks(axes.xaxis, columns)
  _name_ticks(axes.yaxis, rows)
  return legend


def _ink(mean: float, norm) -> str:
  """Black or white, whichever is told better from the colour (WCAG 2 relative luminance)."""
  if not math.isfinite(mean):
    return "black"
  rgb = np.array(_COLOURS(norm(mean))[:3])
  linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
  luminance = linear @ (0.2126, 0.7152, 0.0722)
  return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"


def _draw_lines(axes, points: dict[tuple, _Point], columns: list, norm) -> dict:
  """The mean over seeds in its range; returns what it adds to the legend."""
  legend = {}
  scale = _scale(columns)
  at = {level: i if scale is None else level for i, level in enumerate(columns)}
  ended = [(at[x], points[x,]) for x in columns if (x,) in points and points[x,].ended]
  positions = [position for position, _ in ended]
  axes.plot(positions, [point.mean for _, point in ended], "o-", color=BLUE, markersize=4)
  low, high = [point.low for _, point in ended], [point.high for _, point in ended]
  axes.fill_between(positions, low, high, color=BLUE, alpha=0.2, linewidth=0)
  for position, point in ended:
    if point.failed:
      (cross,) = axes.plot(position, point.mean, color="black", markersize=9, **_CROSS)
      legend[_SOME_ENDED] = cross
  for (x,), point in points.items():
    if not point.ended:
      edge = axes.get_xaxis_transform()
      (cross,) = axes.plot(at[x], 0.04, color=ORANGE, markersize=7, transform=edge, **_CROSS)
      legend[f"{_NONE_ENDED} (lower edge)"] = cross
  if isinstance(norm, LogNorm):
    axes.set_yscale("log")
  if scale is None:
    _name_ticks(axes.xaxis, columns)
  else:
    axes.set_xscale(scale)
  return legend


def _scale(levels: list) -> str | None:
  """How numbers are spaced; None: names, or a 0 beside powers of ten, evenly in their order."""
  if not all(map(_is_number, levels)):
    return None
  sizes = [abs(level) for level in levels if level]
  if not sizes or max(sizes) < 10 * min(sizes):
    return "linear"
  return "log" if levels[0] > 0 else None


def _name_ticks(axis, levels: list):
  """The values of a setting, evenly spaced; every so many where there are too many to read."""
  every = math.ceil(len(levels) / _MOST_TICKS)
  for digits in range(3, 18):  # as few as tell them apart
    names = [_label(level, digits) for level in levels]
    if len(set(names)) == len(names):
      break
  names = names[::every]
  upright = axis.axis_name == "x" and max(map(len, names)) > 6
  axis.set_ticks(range(0, len(levels), every), names, rotation=90 if upright else 0)


def _number(value: float) -> str:
  """Two digits, short enough for a small square."""
  return (
    f"{value:.2g}" if math.isfinite(value) else {math.inf: "∞", -math.inf: "−∞"}.get(value, "–")
  )


def _size_of_map(columns: list, rows: list) -> tuple[float, float]:
  """Inches of one panel: a rectangle holds its number, and the whole fits a page."""
  wide, high = np.clip((0.48 * len(columns) + 1.6, 0.34 * len(rows) + 1.4), (3, 2.4), (8, 8))
  return float(wide), float(high)


def _size_of_lines(columns: list) -> tuple[float, float]:
  return min(0.4 * len(columns) + 2, 6), 3


def _panels(num_values: int, num_slices: int, size: tuple[float, float]):
  """A figure and the panels of each value: values side by side, or each with its slices."""
  wide = min(_WIDEST, max(1, int(16 // size[0])))
  count = num_values if num_slices == 1 else num_slices
  wide = math.ceil(count / math.ceil(count / min(wide, count)))  # rows of nearly equal length
  high = math.ceil(count / wide) * (1 if num_slices == 1 else num_values)
  figure = Figure(figsize=(size[0] * wide, size[1] * high + 0.6))
  grid = figure.subplots(high, wide, squeeze=False)
  blocks = [grid] if num_slices == 1 else np.split(grid, num_values)
  for block in blocks:
    for axes in block.flat[count:]:
      axes.set_axis_off()
  if num_slices == 1:
    return figure, [[axes] for axes in grid.flat[:count]]
  return figure, [list(block.flat[:count]) for block in blocks]


def _over_seeds(table, settings, num_shown: int, num_slices: int) -> str:
  """Over how many seeds the means were taken, and what is not shown."""
  seeds = defaultdict(int)
  for row in table:
    seeds[_at(row, settings)] += not row.get("failed")
  ended = [count for count in seeds.values() if count]
  least, most = min(ended, default=0), max(ended, default=0)
  text = "no run ended" if not ended else "one seed" if most == 1 else ""
  if not text:
    text = f"mean over {most if least == most else f'{least} to {most}'} seeds"
  return text if num_shown == num_slices else f"{text}; {num_shown} of {num_slices} maps of each"
