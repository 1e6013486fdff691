"""The figures of E4: V over layers and epochs, over layers, and when each layer crosses."""

from collections.abc import Iterator, Sequence

import matplotlib
import numpy as np
from matplotlib import colors
from matplotlib.figure import Figure

from nc_jax import depth
from nc_jax.experiments import layers, panels
from nc_jax.experiments.penultimate import V
from nc_jax.experiments.results import Results

_V = r"V = Tr $\Sigma_W$ / Tr $\Sigma_B$"


def heat_map(results: Results) -> Figure:
  """Layer by epoch, the logarithm of V (mean over seeds) as a colour; train beside test."""
  width = 2.6 + 0.06 * layers.longest_name(results)
  figure, axes_of = panels.grid(2 * len(results.cells), width=width)
  found = list(_train_and_test(results))
  means = [layers.mean(values) for *_, values in found]
  everything = np.concatenate([[], *(mean.ravel() for mean in means)])
  everything = everything[np.isfinite(everything) & (everything > 0)]
  norm = colors.LogNorm(*((everything.min(), everything.max()) if everything.size else (0.1, 1)))
  for axes, (title, names, epochs, _), mean in zip(axes_of, found, means, strict=True):
    axes.set_title(title, fontsize=9)
    if mean.size:
      layers.heat_map(axes, epochs, names, np.where(mean > 0, mean, np.nan), norm)
    else:
      axes.set_axis_off()
  for axes in axes_of[1::2]:  # beside the train panel, which has the names
    axes.tick_params(labelleft=False)
    axes.set_ylabel(None)
  layers.heat_bar(figure, axes_of, norm, _V)
  return figure


def over_depth(results: Results) -> Figure:
  """V against layer, a line for each of a few epochs, train beside test."""
  found = list(_train_and_test(results))
  figure, axes_of = panels.grid(
    len(found), sharey=True, height=2.4 + 0.06 * layers.longest_name(results)
  )
  shown_of = [layers.shown_epochs(epochs, 7) for _, _, epochs, _ in found]
  shown = sorted({epoch for of_panel in shown_of for epoch in of_panel})
  colour_of = dict(
    zip(shown, matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(shown))), strict=True)
  )
  for axes, (title, names, epochs, values), of_panel in zip(axes_of, found, shown_of, strict=True):
    for epoch in of_panel:
      panels.line_in_range(
        axes,
        range(len(names)),
        values[:, list(epochs).index(epoch)],
        label=f"epoch {epoch}",
        color=colour_of[epoch],
        marker="o",
        markersize=3.5,
      )
    axes.set_yscale("log")
    axes.set_title(title, fontsize=9)
    layers.layers_on_x(axes, names)
  panels.label_left(axes_of, _V)
  panels.legend_above(figure, axes_of, ncols=8 if len(found) > 2 else 4)
  return figure


def cascade(results: Results, thresholds: Sequence[float]) -> Figure:
  """Per layer the first epoch at which V(train) is below each threshold: median and range."""
  figure, axes_of = panels.grid(
    len(results.cells), height=2.4 + 0.06 * layers.longest_name(results)
  )
  for axes, cell in zip(axes_of, results.cells, strict=True):
    names, epochs, values = layers.curves(results, cell.name, "train", V)
    last = max([1, *epochs])
    never = 4 * last  # drawn above the last epoch, on a line of its own
    for threshold, look in zip(thresholds, panels.looks(), strict=False):
      first = np.array([depth.first_below(of_seed, epochs, threshold) for of_seed in values])
      first = np.where(np.isnan(first), never, first)
      if first.size:
        label = f"V(train) < {threshold:g}"
        axes.plot(np.median(first, axis=0), marker="o", markersize=3.5, label=label, **look)
        axes.fill_between(
          range(len(names)),
          first.min(0),
          first.max(0),
          alpha=0.15,
          color=look["color"],
          linewidth=0,
        )
    axes.set_yscale("symlog", linthresh=1, linscale=0.4)
    axes.set_ylim(0, 1.6 * never)
    ticks = [epoch for epoch in (0, 1, 10, 100, 1000) if epoch < last] + [last]
    axes.set_yticks([*ticks, never], [*map(str, ticks), "never"])
    axes.set_yticks([], minor=True)
    axes.axhline(never, color="0.6", linestyle=":", linewidth=0.9)
    axes.set_title(cell.name, fontsize=9)
    layers.layers_on_x(axes, names)
  panels.label_left(axes_of, "first epoch below")
  panels.legend_above(figure, axes_of)
  return figure


def _train_and_test(results: Results) -> Iterator[tuple[str, list[str], np.ndarray, np.ndarray]]:
  """(title, layers, epochs, values [S, E, layers]) for the two panels of each cell."""
  for cell in results.cells:
    for split in ("train", "test"):
      yield f"{cell.name}\nV({split})", *layers.curves(results, cell.name, split, V)
