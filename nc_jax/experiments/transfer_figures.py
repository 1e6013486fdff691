"""The figures of E3a and E3b: probes along training, against collapse, over layers, by kind."""

import matplotlib
import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nc_jax.experiments import layers, panels
from nc_jax.experiments.penultimate import ERROR, V, curve
from nc_jax.experiments.results import Results
from nc_jax.experiments.statistics import at_common_epochs
from nc_jax.experiments.transfer import HEADLINE, ceiling, course, probes
from nc_jax.figure_style import BLACK, BLUE, GREEN, ORANGE, PURPLE

_CEILING = {"color": BLACK, "linestyle": "--", "linewidth": 1.0, "label": "ceiling at collapse"}


def captions(stem: str) -> dict[str, tuple[str, str]]:
  """Of each figure: what stands below it, and what it shows, for those who do not see it."""
  return {
    f"{stem}_transfer": (
      "Along training: collapse of the classes trained on (left axis), accuracies (right axis)",
      "A panel per cell with V(train), V(test), the accuracy of the training task and the probe's "
      "against the epoch",
    ),
    f"{stem}_scatter": (
      "The probe of the last layer against V(test), a point per observed epoch",
      "Probe accuracy against V(test), coloured by epoch, a panel per cell",
    ),
    f"{stem}_layers": (
      "The probe at every layer along training",
      "A heat map of probe accuracy over epochs and layers, a panel per cell",
    ),
    f"{stem}_probes": (
      "All probes of the last layer along training",
      "Accuracy against the epoch, a line per kind of probe, a panel per cell",
    ),
  }


def draw(results: Results, target: str, stem: str) -> dict[str, Figure]:
  """{file stem: figure}; V and the training task's accuracy are of the classes trained on."""
  return {
    f"{stem}_transfer": _transfer(results, target),
    f"{stem}_scatter": _scatter(results, target),
    f"{stem}_layers": _layers(results, target),
    f"{stem}_probes": _probes(results, target),
  }


def _transfer(results: Results, target: str) -> Figure:
  """V on the left axis, accuracies on the right, a panel per cell."""
  figure, axes_of = panels.grid(len(results.cells), width=3.6, sharey=True)
  twins = []
  for axes, cell in zip(axes_of, (cell.name for cell in results.cells), strict=True):
    twin = axes.twinx()
    twins.append(twin)
    last = 1
    for split, colour in (("test", ORANGE), ("train", BLUE)):
      epochs, values = curve(results, cell, split, V)
      panels.line_in_range(axes, epochs, values, label=f"V({split})", color=colour)
      last = max([last, *epochs])
    epochs, error = curve(results, cell, "test", ERROR)
    label = "test accuracy, training task"
    panels.line_in_range(twin, epochs, 1 - error, label=label, color=GREEN, linestyle="-.")
    probe = course(results, cell, target)
    label = f"probe accuracy, {_words(target)}"
    panels.line_in_range(twin, probe.epochs, probe.accuracy, label=label, color=PURPLE, linewidth=2)
    _ceiling(twin, results, cell, target)
    axes.set_yscale("log")
    axes.set_title(cell, fontsize=9)
    panels.epochs_on_x(axes, last)
    twin.set_ylim(0, 1.02)
    twin.grid(False)
    twin.spines["right"].set_visible(True)
  panels.label_left(axes_of, r"V = Tr $\Sigma_W$ / Tr $\Sigma_B$")
  for index, twin in enumerate(twins):
    if (index + 1) % panels.AT_MOST_WIDE == 0 or index + 1 == len(twins):
      twin.set_ylabel("accuracy")
    else:
      twin.tick_params(labelright=False)
  ncols = 5 if len(axes_of) > 2 else 2
  panels.legend_above(
    figure, [axes for pair in zip(axes_of, twins, strict=True) for axes in pair], ncols=ncols
  )
  return figure


def _scatter(results: Results, target: str) -> Figure:
  """A point per seed and epoch, in the colour of its epoch; the line is the mean over seeds."""
  figure, axes_of = panels.grid(len(results.cells), width=3.2, sharey=True)
  norm = _epoch_colours(results, target)
  for axes, cell in zip(axes_of, (cell.name for cell in results.cells), strict=True):
    probe = course(results, cell, target)
    both = [curve(results, cell, "test", V), (probe.epochs, probe.accuracy)]
    epochs, (x, y) = at_common_epochs(both)
    seen = np.isfinite(x) & np.isfinite(y) & (x > 0)
    colour = np.broadcast_to(epochs, x.shape)
    axes.set_xscale("log")
    mean_x, mean_y = (panels.over_seeds(np.where(seen, values, np.nan))[0] for values in (x, y))
    axes.plot(mean_x, mean_y, color="0.6", linewidth=0.9, zorder=1)
    axes.scatter(x[seen], y[seen], c=colour[seen], norm=norm, cmap="viridis", s=14, zorder=2)
    _ceiling(axes, results, cell, target, across=True)
    axes.set_title(cell, fontsize=9)
    axes.set_xlabel("V(test)")
  panels.label_left(axes_of, f"probe accuracy, {_words(target)}")
  if axes_of:
    image = matplotlib.cm.ScalarMappable(norm, "viridis")
    bar = figure.colorbar(image, ax=axes_of, label="epoch", aspect=30)
    shown = [epoch for epoch in (0, 1, 3, 10, 30, 100, 300, 1000) if epoch <= norm.vmax]
    bar.set_ticks(shown, labels=[str(epoch) for epoch in shown])
    bar.minorticks_off()
  panels.legend_above(figure, axes_of)
  return figure


def _layers(results: Results, target: str) -> Figure:
  """Layer by epoch, the accuracy of the headline probe (mean over seeds) as a colour."""
  # Names of layers take room beside every panel: cells may differ in their networks.
  width = 2.6 + 0.06 * layers.longest_name(results)
  figure, axes_of = panels.grid(len(results.cells), width=width)
  key = f"probe/{target}/{HEADLINE}"
  found = [layers.curves(results, cell.name, "test", key) for cell in results.cells]
  means = [layers.mean(values) for *_, values in found]
  everything = np.concatenate([[], *(mean.ravel() for mean in means)])
  everything = everything[np.isfinite(everything)]
  norm = colors.Normalize(*((everything.min(), everything.max()) if everything.size else (0, 1)))
  for axes, cell, (names, epochs, _), mean in zip(
    axes_of, results.cells, found, means, strict=True
  ):
    axes.set_title(cell.name, fontsize=9)
    if mean.size:
      layers.heat_map(axes, epochs, names, mean, norm)
    else:
      axes.set_axis_off()
  layers.heat_bar(figure, axes_of, norm, f"probe accuracy, {_words(target)}")
  return figure


def _probes(results: Results, target: str) -> Figure:
  """Every kind of probe of the last layer along training."""
  figure, axes_of = panels.grid(len(results.cells), sharey=True)
  kinds = dict.fromkeys(kind for c in results.cells for kind in probes(results, c.name, target))
  look_of = dict(zip(kinds, panels.looks(), strict=False))
  for axes, cell in zip(axes_of, (cell.name for cell in results.cells), strict=True):
    last = 1
    for kind in probes(results, cell, target):
      probe = course(results, cell, target, probe=kind)
      wide = {"linewidth": 2.2 if kind == HEADLINE else 1.2}
      panels.line_in_range(
        axes, probe.epochs, probe.accuracy, label=kind, **look_of.get(kind, {}), **wide
      )
      last = max([last, *probe.epochs])
    _ceiling(axes, results, cell, target)
    axes.set_title(cell, fontsize=9)
    panels.epochs_on_x(axes, last)
    axes.set_ylim(0, 1.02)
  panels.label_left(axes_of, f"probe accuracy, {_words(target)}")
  panels.legend_above(figure, axes_of)
  return figure


def _ceiling(axes: Axes, results: Results, cell: str, target: str, across: bool = False):
  """The F2 ceiling: along the epochs, or across the panel at its value at the end."""
  along = ceiling(results, cell, target)
  if across and np.isfinite(along.final).any():
    axes.axhline(np.nanmean(along.final), **_CEILING)
  elif not across:
    mean = panels.over_seeds(along.accuracy)[0]
    if np.isfinite(mean).any():
      axes.plot(along.epochs, mean, **_CEILING)


def _epoch_colours(results: Results, target: str) -> colors.SymLogNorm:
  last = [course(results, cell.name, target).last_epoch for cell in results.cells]
  return colors.SymLogNorm(1, linscale=0.4, vmin=0, vmax=max([1, *np.nan_to_num(last)]))


def _words(target: str) -> str:
  return {"fine": "fine classes", "held_out": "novel classes"}[target]
