"""Figures of many cells: a grid of panels, a mean line in its range, epochs on x."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nc_jax.figure_style import BLACK, BLUE, GREEN, ORANGE, PURPLE

AT_MOST_WIDE = 4


def grid(count: int, *, width: float = 3.2, height: float = 2.7, **options) -> tuple:
  """A figure with `count` panels, at most four side by side; (figure, [axes]).

  Panels stand in the order of reading. The last row may be short.

  Args:
    count: how many; 0 gives an empty figure.
    width, height: inches of one panel.
    options: of `Figure.subplots`, such as sharey=True.
  """
  columns = min(max(count, 1), AT_MOST_WIDE)
  rows = math.ceil(max(count, 1) / columns)
  # A lone panel needs room for the legend above it.
  figure = Figure(figsize=(max(width * columns, 5.5), height * rows + 0.6))
  panels = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
  for axes in panels[count:]:
    axes.remove()
  return figure, panels[:count]


def line_in_range(axes: Axes, x: Sequence[float], values: np.ndarray, **style):
  """The mean over seeds [S, E] as a line, their range as a band; nan and inf are left out."""
  mean, least, most = over_seeds(values)
  if not np.isfinite(mean).any():
    return
  (line,) = axes.plot(x, mean, **style)
  if len(values) > 1:
    axes.fill_between(x, least, most, color=line.get_color(), alpha=0.2, linewidth=0)


def over_seeds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(mean, least, most) over S of the finite values of [S, E]; nan where there is none."""
  finite = np.ma.masked_invalid(np.atleast_2d(values))
  if not finite.size:
    return (np.full(finite.shape[1], np.nan),) * 3
  return tuple(np.ma.filled(f(axis=0), np.nan) for f in (finite.mean, finite.min, finite.max))


def epochs_on_x(axes: Axes, last: float, label: bool = True):
  """Logarithmic epochs, with room for epoch 0, the untrained network."""
  axes.set_xscale("symlog", linthresh=1, linscale=0.4)
  axes.set_xlim(0, max(1, last))
  axes.xaxis.set_major_formatter("{x:g}")
  if label:
    axes.set_xlabel("epoch")


def shade_terminal_phase(axes: Axes, terminal: Sequence[int | None], last: float):
  """From the median over seeds of the first epoch with train error 0; nothing if half have none."""
  begin = float(
    np.median([math.inf if epoch is None else epoch for epoch in terminal] or [math.inf])
  )
  if math.isfinite(begin):
    text = "terminal phase (train error 0)"
    axes.axvspan(begin, max(last, begin), color="0.5", alpha=0.12, linewidth=0, label=text)
    axes.axvline(begin, color="0.4", linewidth=0.8)


def legend_above(figure: Figure, panels: Sequence[Axes], **options):
  """One legend for all panels: each label once, whichever panel has it."""
  entries = {}
  for axes in panels:
    for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
      entries.setdefault(text, handle)
  if entries:
    columns = options.pop("ncols", AT_MOST_WIDE if figure.get_figwidth() > 8 else 2)
    figure.legend(
      entries.values(), entries.keys(), loc="outside upper center", ncols=columns, **options
    )


def label_left(panels: Sequence[Axes], text: str):
  """The y label of the first panel of each row."""
  for axes in panels[::AT_MOST_WIDE]:
    axes.set_ylabel(text)


def looks() -> Iterator[dict[str, str]]:
  """Colour and dashes for one line after another: fifteen that differ."""
  for dashes, colour in itertools.product(("-", "--", ":"), (BLUE, ORANGE, GREEN, PURPLE, BLACK)):
    yield {"color": colour, "linestyle": dashes}


def trajectory(axes: Axes, x: np.ndarray, y: np.ndarray, label: str, color, **style):
  """A path [E] with its direction: a ring where it begins, a disc at its end, an arrow between.

  Points that are not finite or not above 0 are left out, for the axes are logarithmic.
  """
  seen = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
  x, y = x[seen], y[seen]
  if not len(x):
    return
  axes.plot(x, y, color=color, label=label, linewidth=1.2, **style)
  axes.plot(x[:1], y[:1], "o", color=color, markerfacecolor="white", markersize=7)
  axes.plot(x[-1:], y[-1:], "o", color=color, markersize=6)
  if len(x) > 1:
    # Half of the longest step as it is drawn: there the arrow is not lost among short ones.
    step = int(np.hypot(np.diff(np.log(x)), np.diff(np.log(y))).argmax())
    begin, end = (x[step], y[step]), (x[step + 1], y[step + 1])
    axes.annotate(
      "",
      tuple(np.sqrt(np.multiply(begin, end))),
      begin,
      arrowprops={"arrowstyle": "-|>", "color": color, "mutation_scale": 16, "linewidth": 0},
    )


def diagonal(axes: Axes, label: str):
  """The line y = x through what is drawn so far, which keeps its limits."""
  low, high = zip(axes.get_xlim(), axes.get_ylim(), strict=True)
  axes.set_xlim(low[0], high[0])
  axes.set_ylim(low[1], high[1])
  axes.plot([1e-30, 1e30], [1e-30, 1e30], color="0.5", linestyle="--", linewidth=0.9, label=label)
