"""Figures of a run, drawn from the tables in its workdir."""

import pathlib

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from nc_jax import npz, verdict, writers
from nc_jax.figure_style import BLACK, BLUE, GREEN, ORANGE, PURPLE, STYLE, cosines
from nc_jax.files import replacing
from nc_jax.training.models import LOGITS, PENULTIMATE

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, BLACK)

# What each panel of the overview shows: title, keys, logarithmic or not.
_PANELS = (
  ("NC1: variability collapse", ("nc1/pinv", "nc1/trace_ratio", "nc1/cdnv", "nc1/vci"), True),
  (
    "NC2: simplex ETF",
    ("nc2/equinorm_means", "nc2/equiangular_means", "nc2/etf_means", "nc2/etf_weights"),
    True,
  ),
  ("NC3: self-duality", ("nc3/self_duality", "nc3/duality_etf", "nc3/uniform_duality"), True),
  (
    "NC4: nearest class mean",
    ("nc4/ncc_mismatch", "nc4/ncc_error", "error/classifier"),
    False,
  ),
)


def draw(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Draws every figure of a run into its workdir and returns their paths.

  Raises UserError for damaged class means.
  """
  rows = writers.read_csv(workdir / "metrics.csv")
  geometry = npz.load(workdir / "class_means.npz", ("train", "test", "weight"))
  with matplotlib.rc_context(STYLE):
    figures = {
      "collapse.png": collapse(rows),
      "nc1_to_nc4.png": overview(rows),
      "layers.png": layers(rows),
      "class_means.png": class_means(geometry),
    }
  paths = []
  for name, figure in figures.items():
    with replacing(workdir / name, "wb") as file:
      figure.savefig(file, format="png", dpi=150)
    paths.append(workdir / name)
  return paths


def collapse(rows: list[dict]) -> Figure:
  """V of train and test along training, and the errors below; the terminal phase is shaded."""
  figure = Figure(figsize=(7, 5.6))
  above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
  for label, split, key, colour, line in (
    ("V(test), test class means", "test", "nc1/trace_ratio", ORANGE, "-"),
    ("V_weak(test), nearest train class mean", "test", "weak/second_moment", ORANGE, "--"),
    ("V(train)", "train", "nc1/trace_ratio", BLUE, "-"),
  ):
    _line(above, rows, split, PENULTIMATE, key, label=label, color=colour, linestyle=line)
  above.set_yscale("log")
  above.set_ylabel(r"V = Tr $\Sigma_W$ / Tr $\Sigma_B$")
  above.set_title("Within-class variability V of the penultimate layer")
  for split, colour in (("test", ORANGE), ("train", BLUE)):
    _line(below, rows, split, LOGITS, "error/classifier", label=f"{split} error", color=colour)
  below.set_ylabel("share of errors")
  below.set_ylim(bottom=0)
  for axes in (above, below):
    _mark_terminal_phase(axes, rows, label=axes is above)
    axes.legend()
  _epochs_on_x(below, rows)
  return figure


def overview(rows: list[dict]) -> Figure:
  """NC1 to NC4 of the penultimate layer, train solid and test dotted."""
  figure = Figure(figsize=(10, 7.5))
  for axes, (title, keys, logarithmic) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
    for key, colour in zip(keys, _COLOURS, strict=False):
      for split, line in (("train", "-"), ("test", ":")):
        label = key if split == "train" else None
        _line(axes, rows, split, PENULTIMATE, key, label=label, color=colour, linestyle=line)
    axes.set_title(title)
    if logarithmic:
      axes.set_yscale("log")
    else:
      axes.set_ylim(bottom=0)
    _mark_terminal_phase(axes, rows)
    _epochs_on_x(axes, rows)
    if axes.lines:  # below, where no curve can be
      axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
  figure.suptitle("Neural collapse, penultimate layer: train solid, test dotted; 0 at collapse")
  return figure


def layers(rows: list[dict]) -> Figure:
  """V against depth, a line for each of a few epochs, on train and test."""
  names = list(dict.fromkeys(r["layer"] for r in rows if r["layer"] != LOGITS))
  epochs = sorted({r["epoch"] for r in rows})
  wanted = np.geomspace(1, max(epochs[-1], 1), 5)
  shown = sorted({0, *(min(epochs, key=lambda e: abs(e - w)) for w in wanted)})
  colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(shown)))
  figure = Figure(figsize=(9, 4))
  panels = figure.subplots(1, 2, sharey=True)
  for axes, split in zip(panels, ("train", "test"), strict=True):
    curves = [verdict.curve(rows, split, name, "nc1/trace_ratio") for name in names]
    for epoch, colour in zip(shown, colours, strict=True):
      values = [curve[epoch] for curve in curves]
      axes.plot(range(len(names)), values, "o-", color=colour, markersize=4, label=f"epoch {epoch}")
    axes.set_yscale("log")
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 8 else 0)
    axes.set_title(f"V({split}) by layer")
  panels[0].set_ylabel(r"V = Tr $\Sigma_W$ / Tr $\Sigma_B$")
  panels[1].legend(fontsize=8)
  return figure


def class_means(geometry: dict[str, np.ndarray]) -> Figure:
  """Cosines between centred class means, and between classifier rows, beside the ideal ETF."""
  centred = {
    f"{split} class means": geometry[split] - geometry[split].mean(0) for split in ("train", "test")
  }
  matrices = {title: cosines(rows) for title, rows in centred.items()}
  matrices["classifier rows"] = cosines(geometry["weight"])
  num_classes = len(geometry["weight"])
  ideal = np.full((num_classes, num_classes), -1 / max(num_classes - 1, 1))
  np.fill_diagonal(ideal, 1)
  matrices["ideal simplex ETF"] = ideal
  figure = Figure(figsize=(12, 3.4))
  panels = figure.subplots(1, len(matrices))
  for axes, (title, matrix) in zip(panels, matrices.items(), strict=True):
    image = axes.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    off_diagonal = matrix[~np.eye(num_classes, dtype=bool)]
    away = np.abs(off_diagonal + 1 / max(num_classes - 1, 1)).mean() if num_classes > 1 else 0
    axes.set_title(f"{title}\nmean |cos + 1/(K−1)| = {away:.3f}")
    axes.grid(False)
    axes.set_xlabel("class")
  panels[0].set_ylabel("class")
  figure.colorbar(image, ax=panels, label="cosine", shrink=0.9)
  return figure


def _line(axes, rows, split, layer, key, **style):
  points = sorted(verdict.curve(rows, split, layer, key).items())
  if points:
    axes.plot(*zip(*points, strict=True), **style)


def _mark_terminal_phase(axes, rows, label: bool = False):
  begin = verdict.terminal_epoch(rows)
  if begin is not None:
    end = max(r["epoch"] for r in rows)
    text = f"terminal phase: train error 0 since epoch {begin}"
    axes.axvspan(begin, end, color="0.5", alpha=0.12, linewidth=0, label=text if label else None)
    axes.axvline(begin, color="0.4", linewidth=0.8)


def _epochs_on_x(axes, rows):
  """Logarithmic epochs, with room for epoch 0, the untrained network."""
  axes.set_xscale("symlog", linthresh=1, linscale=0.4)
  axes.set_xlim(0, max(1, *(r["epoch"] for r in rows)))
  axes.set_xlabel("epoch")
  axes.xaxis.set_major_formatter("{x:g}")
