"""Curves of all layers of a cell side by side, and how they are drawn over depth and epochs."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nc_jax.experiments import panels
from nc_jax.experiments.results import Results
from nc_jax.experiments.statistics import at_common_epochs


def curves(
  results: Results, cell: str, split: str, key: str
) -> tuple[list[str], np.ndarray, np.ndarray]:
  """(layers that have the key, epochs [E] that all of them have, values float64 [S, E, layers])."""
  names = [name for name in results.layers(cell) if key in results.keys(cell, split, name)]
  if not names:
    return [], np.empty(0, int), np.empty((len(results.seeds(cell)), 0, 0))
  found = [results.curve(cell, split, name, key) for name in names]
  epochs, values = at_common_epochs(found)
  return names, epochs, np.stack(values, axis=-1)


def final(results: Results, cell: str, split: str, key: str) -> np.ndarray:
  """float64 [S, layers] at the end; nan where a layer lacks the key."""
  values = [results.final(cell, split, name, key) for name in results.layers(cell)]
  return np.stack(values, axis=-1) if values else np.empty((len(results.seeds(cell)), 0))


def mean(values: np.ndarray) -> np.ndarray:
  """[E, layers] of values [S, E, layers], over the seeds that have a finite one."""
  seeds, *shape = values.shape
  return panels.over_seeds(values.reshape(seeds, int(np.prod(shape))))[0].reshape(shape)


def shown_epochs(epochs: Sequence[int], count: int = 6) -> list[int]:
  """A few of the observed epochs: the first, the last, and between them by equal factors."""
  epochs = np.asarray(epochs)
  if not len(epochs):
    return []
  wanted = np.geomspace(max(epochs[0], 1), max(epochs[-1], 1), count)
  nearest = {int(epochs[np.abs(epochs - epoch).argmin()]) for epoch in wanted}
  return sorted({int(epochs[0]), *nearest})


def heat_map(axes: Axes, epochs: Sequence[int], names: Sequence[str], values: np.ndarray, norm):
  """Values [E, layers] as colours: the input below, one column per observed epoch.

  Observed epochs are equally wide, for they were chosen where something happens. What is not
  finite stays grey.
  """
  axes.imshow(
    np.ma.masked_invalid(values.T),
    norm=norm,
    cmap=matplotlib.colormaps["viridis"].with_extremes(bad="0.85"),
    aspect="auto",
    origin="lower",
    interpolation="nearest",
  )
  columns = np.linspace(0, len(epochs) - 1, min(len(epochs), 6)).round().astype(int)
  axes.set_xticks(columns, [epochs[column] for column in columns])
  axes.set_xlabel("epoch")
  short, pooling = _without_pooling(names)
  axes.set_yticks(range(len(short)), short, fontsize=7 if len(short) > 8 else None)
  axes.set_ylabel(pooling, fontsize=7)
  axes.grid(False)


def heat_bar(figure: Figure, axes_of: Sequence[Axes], norm, label: str):
  """One scale of colours for all panels, no thicker for many rows of them."""
  if axes_of:
    rows = -(-len(axes_of) // panels.AT_MOST_WIDE)
    image = matplotlib.cm.ScalarMappable(norm, "viridis")
    figure.colorbar(image, ax=axes_of, label=label, aspect=20 * rows)


def layers_on_x(axes: Axes, names: Sequence[str]):
  """Names lie where they fit and stand where they do not."""
  short, pooling = _without_pooling(names)
  crowded = sum(map(len, short)) > 24
  axes.set_xticks(
    range(len(short)), short, rotation=90 if crowded else 0, fontsize=7 if crowded else None
  )
  axes.set_xlabel(pooling, fontsize=7)


def longest_name(results: Results) -> int:
  """In letters, as it is drawn: what panels must leave room for."""
  names = (_without_pooling(results.layers(cell.name))[0] for cell in results.cells)
  return max((len(name) for of_cell in names for name in of_cell), default=0)


def _without_pooling(names: Sequence[str]) -> tuple[list[str], str]:
  """stage1_block1.average is drawn as stage1_block1; how maps were pooled is said once."""
  poolings = {name.partition(".")[2] for name in names} - {""}
  if len(poolings) != 1:
    return list(names), ""
  return [name.partition(".")[0] for name in names], f"maps pooled: {poolings.pop()}"
