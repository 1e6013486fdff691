"""The rows of a benchmark as bars: time relative to the limit."""

import pathlib

from matplotlib.figure import Figure

from nc_jax.benchmarks.table import Row, number
from nc_jax.files import replacing

_COLOURS = {"limit": "#999999", "numpy": "#CC79A7", "process": "#009E73"}
_OURS = "#0072B2"


def draw(path: pathlib.Path, rows: list[Row], title: str):
  """One panel per size; a bar is the time of a row over that of limit/product, the dashed line."""
  sizes = list(dict.fromkeys(row.size for row in rows))
  figure = Figure(figsize=(7, 0.6 + 2.9 * len(sizes)), layout="constrained")
  figure.suptitle(title, fontsize=7)
  for axes, size in zip(figure.subplots(len(sizes), 1, squeeze=False)[:, 0], sizes, strict=True):
    bars = [row for row in rows if row.size == size and row.what != "limit/again"]
    names = [row.what + "*" * row.scaled for row in bars]
    values = [row.x_product for row in bars]
    colours = [_COLOURS.get(row.what.split("/")[0], _OURS) for row in bars]
    drawn = axes.barh(names, values, color=colours)
    axes.bar_label(drawn, [f" {number(value)}" for value in values], fontsize=8)
    axes.axvline(1, color="black", linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{size}: N {bars[0].n:,}, D {bars[0].d:,}, K {bars[0].k:,}", fontsize=9)
  axes.set_xlabel("time / time of a plain product XᵀX (less is faster)", fontsize=9)
  with replacing(path, "wb") as file:
    figure.savefig(file, format=path.suffix[1:], dpi=150)
