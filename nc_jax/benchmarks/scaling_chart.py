"""Efficiencies of weak scaling against the number of devices."""

import pathlib
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from nc_jax.figure_style import BLACK, BLUE, GREEN, ORANGE, STYLE
from nc_jax.files import replacing

_COLOURS = {"limit/devices": BLACK, "step/apart": GREEN, "step": BLUE, "accumulate": ORANGE}


def draw(path: pathlib.Path, rows: Sequence, title: str):
  """A line for each thing that was timed (`scaling.Row`); the dashed line is the ideal."""
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(5, 3.4))
    figure.suptitle(title, fontsize=7)
    axes = figure.subplots()
    for what, colour in _COLOURS.items():
      own = [row for row in rows if row.what == what]
      numbers, efficiencies = [r.devices_used for r in own], [r.efficiency for r in own]
      axes.plot(numbers, efficiencies, "o-", color=colour, label=what)
    axes.axhline(1, color=BLACK, linestyle="--", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("devices")
    axes.set_ylabel("rate / (devices × rate of one)")
    axes.legend()
    with replacing(path, "wb") as file:
      figure.savefig(file, format=path.suffix[1:], dpi=150)
