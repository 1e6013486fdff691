"""Figures as files: PNG to look at anywhere, SVG to print; the same bytes whenever drawn again."""

import pathlib

import matplotlib
from matplotlib.figure import Figure

from nc_jax.figure_style import STYLE
from nc_jax.files import replacing

DPI = 150  # of the PNG

# Matplotlib would write down the time, and its own version.
_METADATA = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


def save(folder: pathlib.Path, figures: dict[str, Figure]) -> list[pathlib.Path]:
  """Writes STEM.png and STEM.svg of each figure, as pages and papers show them.

  Style is mostly settled when a figure is made, so make it under `STYLE` as well. The salt of a
  figure's SVG identifiers, which Matplotlib draws at random, is its stem.

  Args:
    folder: where to; it exists.
    figures: {file stem: figure}.

  Returns: the paths, the PNG of a figure before its SVG.
  """
  paths = []
  for stem, figure in figures.items():
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": stem}):
      for kind, metadata in _METADATA.items():
        path = folder / f"{stem}.{kind}"
        with replacing(path, "wb") as file:
          figure.savefig(file, format=kind, dpi=DPI, metadata=metadata)
        paths.append(path)
        figure.set_layout_engine("none")  # laid out once for all kinds: that takes long
  return paths
