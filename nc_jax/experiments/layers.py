"""Curves of all layers of a cell side by side, and how they are drawn over depth and epochs."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from nc_jax.experiments import panels
from nc_jax.experiments.results import Results


def curves(
  results: Results, cell: str, split: str, key: str
) -> tuple[list[str], np.ndarray, np.ndarray]:
  """(layers that have the key, epochs [E] that all of them have, values float64 [S, E, layers])."""
  names = [name for name in results.layers(cell) if key in results.keys(cell, split, name)]
  if not names:
    return [], np.empty(0, int), np.empty((len(results.seeds(cell)), 0, 0))
  found = [results.curve(cell, split, name, key) for name in names]
  epochs = sorted(set.intersection(*({*epochs.tolist()} for epochs, _ in found)))
  values = [of_layer[:, np.isin(all_epochs, epochs)] for all_epochs, of_layer in found]
  return names, np.array(epochs, int), np.stack(values, axis=-1)


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
  """Values [E, layers] as colours: the input below, one column per observed epoch; the image.

  Observed epochs are equally wide, for they were chosen where something happens. What is not
  finite stays grey.
  """
  colours = matplotlib.colormaps["viridis"].with_extremes(bad="0.85")
  image = axes.imshow(
    np.ma.masked_invalid(values.T),
    norm=norm,
    cmap=colours,
    aspect="auto",
    origin="lower",
    interpolation="nearest",
  )
  columns = np.arange(0, len(epochs), max(1, -(-len(epochs) // 7)))
  axes.set_xticks(columns, [epochs[column] for column in columns])
  axes.set_xlabel("epoch")
  axes.set_yticks(range(len(names)), names, fontsize=7 if len(names) > 8 else None)
  axes.grid(False)
  return image


def layers_on_x(axes: Axes, names: Sequence[str]):
  """Names lie where they fit and stand where they do not."""
  crowded = sum(map(len, names)) > 24
  axes.set_xticks(
    range(len(names)), names, rotation=90 if crowded else 0, fontsize=7 if crowded else None
  )
