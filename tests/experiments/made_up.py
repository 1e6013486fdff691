"""Runs from formulas, in which what the paper saw is there, or is not."""

import io

import matplotlib
import numpy as np

from nc_jax.experiments.results import Run
from nc_jax.figure_style import STYLE

# As in a run: dense at first, then by about a tenth more.
EPOCHS = (*range(21), 24, 29, 35, 42, 50, 59, 71, 85, 98, 107, 129, 156, 188, 206, 249, 300)


def run(cell, curves, seed=0, epochs=EPOCHS, failed=None, factors=None):
  """Rows from {(split, layer, key): f}; f is a function of the epoch, or a constant.

  With {(split, layer, key): factors [R]} the replicates are as many times the values.
  """
  rows = [
    (epoch, *where, float(f(epoch) if callable(f) else f))
    for epoch in epochs
    for where, f in curves.items()
  ]
  replicates = {}
  for epoch, *where, value in rows:
    if tuple(where) in (factors or {}):
      replicates.setdefault(tuple(where), {})[epoch] = value * np.asarray(factors[tuple(where)])
  return Run(cell, seed, rows, failed, replicates)


def drawn(figures):
  """{file stem: PNG}; drawing is where a figure that cannot be drawn raises."""
  images = {}
  for stem, figure in figures.items():
    with matplotlib.rc_context(STYLE), io.BytesIO() as file:
      figure.savefig(file, format="png", dpi=50)
      images[stem] = file.getvalue()
  return images
