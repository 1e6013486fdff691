"""One figure of measured features: angles and norms of the class means, spectrum, spread."""

import pathlib
import warnings

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nc_jax.exported.passes import Measured, Request
from nc_jax.figure_style import BLUE, ORANGE, STYLE, cosines
from nc_jax.files import replacing
from nc_jax.metrics import variability
from nc_jax.metrics.centring import centre

_IDEAL = {"color": "0.25", "linestyle": "--", "linewidth": 1}
_MOST_CLASSES = 500  # in a matrix; more cannot be told apart
_TITLE = 100  # letters that fit into one line


def save(path: pathlib.Path, measured: Measured, request: Request, title: str):
  """Draws the figure into `path`, in the format of its suffix; a long title keeps its end."""
  if len(title) > _TITLE:
    title = "…" + title[1 - _TITLE :]
  with matplotlib.rc_context(STYLE):
    figure = draw(measured, request)
    figure.suptitle(title, parse_math=False)  # names of files may have a $
    with replacing(path, "wb") as file, warnings.catch_warnings():
      warnings.filterwarnings("ignore", r"Glyph .* missing from")  # or letters of any language
      figure.savefig(file, format=path.suffix[1:], dpi=150)


def draw(measured: Measured, request: Request) -> Figure:
  """Above: cosines of class means, the ideal, and both as a histogram. Below: sizes."""
  moments = jax.device_get(measured.moments)
  present = np.flatnonzero(moments.count)
  means = np.asarray(centre(moments, request.global_mean).means, float)[present]
  rows = None if request.head is None else np.asarray(request.head.weight, float)[present]
  weights = np.asarray(variability.between_weights(moments, request.between), float)[present]
  variances = moments.spread[present].astype(float) / moments.count[present]

  figure = Figure(figsize=(12, 7.4))
  if len(present) < 2:
    figure.text(0.5, 0.5, "Fewer than two classes have examples: nothing to compare.", ha="center")
    return figure
  above, below = (part.subplots(1, 3) for part in figure.subfigures(2, 1))
  image = _matrices(above[:2], means, present, measured.values)
  above[0].figure.colorbar(image, ax=list(above[:2]), label="cosine", shrink=0.9, pad=0.02)
  _pairs(above[2], means, rows, measured.values)
  epsilon = np.finfo(moments.mean.dtype).eps
  between = means * np.sqrt(weights)[:, None]
  _spectrum(below[0], between, measured.covariance, epsilon, measured.values)
  _spread(below[1], present, variances, np.mean(np.sum(means**2, axis=1)), measured.values)
  _norms(below[2], present, means, rows, measured.values)
  return figure


def _matrices(panels, means: np.ndarray, present: np.ndarray, values: dict[str, float]):
  """Cosines between centred class means beside the simplex ETF."""
  classes = len(present)
  step = -(-classes // _MOST_CLASSES)
  present = present[::step]
  found = cosines(means[::step])
  ideal = np.full(found.shape, -1 / (classes - 1))
  np.fill_diagonal(ideal, 1)
  key, every = "nc2/etf_means", f", 1 class in {step}" if step > 1 else ""
  for axes, matrix, title in (
    (panels[0], found, f"Cosines of centred class means{every}\n{_value(key, values)}"),
    (panels[1], ideal, f"Ideal: simplex ETF\n−1/(C − 1) = {_number(-1 / (classes - 1))}"),
  ):
    image = axes.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    axes.set_title(title)
    axes.grid(False)
    axes.set_xlabel("class")
    axes.set_ylabel("class")
    for axis in (axes.xaxis, axes.yaxis):
      axis.set_major_locator(_ticks(len(present)))
      axis.set_major_formatter(FuncFormatter(lambda at, _: _class_at(present, at)))
  return image


def _pairs(axes, means: np.ndarray, rows: np.ndarray | None, values):
  """How the cosines of all pairs lie about the ideal."""
  classes = len(means)
  step = -(-classes // (4 * _MOST_CLASSES))
  sets = [("class means", means, BLUE)]
  if rows is not None:
    sets.append(("classifier rows", rows, ORANGE))
  upper = np.triu_indices(len(means[::step]), 1)
  samples = [cosines(vectors[::step])[upper] for _, vectors, _ in sets]
  ideal = -1 / (classes - 1)
  low, high = min(ideal, *map(np.min, samples)), max(ideal, *map(np.max, samples))
  margin = max(0.1 * (high - low), 0.05)
  count = int(np.clip(2 * np.sqrt(len(upper[0])), 16, 60))
  bins = np.linspace(low - margin, high + margin, count + 1)
  for (label, _, colour), found in zip(sets, samples, strict=True):
    shares = np.full(len(found), 1 / len(found))
    axes.hist(found, bins, weights=shares, color=colour, alpha=0.25)
    axes.hist(found, bins, weights=shares, color=colour, histtype="step", label=label)
  axes.axvline(ideal, **_IDEAL, label="simplex ETF")
  axes.set_ylim(top=1.35 * axes.get_ylim()[1])  # room for the legend
  axes.set_title(f"NC2: cosines of pairs of classes\n{_value('nc2/equiangular_means', values)}")
  axes.set_xlabel("cosine")
  axes.xaxis.set_major_locator(MaxNLocator(5))  # long numbers where all cosines are close
  axes.set_ylabel("share of pairs")
  axes.legend()


def _spectrum(axes, between: np.ndarray, covariance, epsilon: float, values: dict[str, float]):
  """Eigenvalues of Σ_B = AᵀA, A [C, D], and of Σ_W and Σ_T where there is a scatter.

  Those that the rounding of the moments, epsilon, hides are left out.
  """
  classes, dim = between.shape
  sigma = np.linalg.svd(between, compute_uv=False)[: classes - 1]
  sigma = sigma[sigma > max(classes, dim) * epsilon * sigma[0]]
  curves = [(r"between, $\Sigma_B$", sigma**2, BLUE, 1)]
  title = "Spectrum, without scatter"
  if covariance is not None:
    title = "Spectrum of the covariances"
    total = np.linalg.eigvalsh(np.asarray(covariance, float) + between.T @ between)[::-1]
    within = np.linalg.eigvalsh(np.asarray(covariance, float))[::-1]
    rank = np.sum(within > dim * epsilon * within[0])
    curves.insert(0, (r"total, $\Sigma_T$", total[: rank + len(sigma)], "0.6", 4))
    curves.append((r"within, $\Sigma_W$", within[:rank], ORANGE, 1))
  for label, found, colour, width in curves:
    index = 1 + np.arange(len(found))
    size = {"linewidth": width, "markersize": max(width, 2.5)}
    axes.plot(index, found, "o-", color=colour, label=label, **size)
  axes.axvline(classes - 1, **_IDEAL, label=f"C − 1 = {classes - 1}")
  found = np.concatenate([found for _, found, *_ in curves])
  if (found > 0).any():
    axes.set_yscale("log")
    axes.set_ylim(found[found > 0].min() / 3, found.max() * 3)  # a flat spectrum looks flat
  if dim > 20:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
  else:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
  axes.set_title(f"{title}\n{_value('rank/between', values)}")
  axes.set_xlabel("index")
  axes.set_ylabel("eigenvalue")
  axes.legend()


def _spread(axes, present: np.ndarray, variances: np.ndarray, size: float, values):
  """Variance of each class against the mean squared norm of the class means."""
  some = variances > 0 if size > 0 else np.zeros(len(variances), bool)
  if some.any():
    spread = variances / size
    axes.plot(present[some], spread[some], ".", color=BLUE)
    label = f"mean {_number(spread.mean())}"
    axes.axhline(spread.mean(), color=ORANGE, linewidth=1, zorder=3, label=label)
    axes.set_yscale("log")
    axes.set_ylim(spread[some].min() / 3, spread.max() * 3)  # small differences look small
  else:
    axes.set_yticks([])
  if not some.all():
    reason = "without spread" if size > 0 else "with one and the same mean"
    axes.plot([], [], " ", label=f"not shown: {np.sum(~some)} classes\n{reason}")
  axes.set_title(f"NC1: spread of each class\n{_value('nc1/trace_ratio', values)}")
  axes.set_ylabel(r"variance $v_k$ / mean $\Vert m\Vert^2$")
  _classes_on_x(axes, present)
  axes.legend()


def _norms(axes, present: np.ndarray, means: np.ndarray, rows: np.ndarray | None, values):
  """Norms of class means and classifier rows against their averages."""
  top = 1.0
  for label, vectors, colour in (("class means", means, BLUE), ("classifier rows", rows, ORANGE)):
    if vectors is not None:
      norms = np.linalg.norm(vectors, axis=1)
      norms /= norms.mean() or 1
      top = max(top, norms.max())
      axes.plot(present, norms, ".", color=colour, label=label)
  axes.axhline(1, **_IDEAL, zorder=3, label="simplex ETF")
  axes.set_ylim(0, 1.1 * top)
  axes.set_title(f"NC2: norm of each class\n{_value('nc2/equinorm_means', values)}")
  axes.set_ylabel("norm / mean norm")
  _classes_on_x(axes, present)
  axes.legend(loc="lower right")


def _classes_on_x(axes, present: np.ndarray):
  axes.set_xlabel("class")
  axes.set_xlim(present[0] - 0.5, present[-1] + 0.5)
  axes.xaxis.set_major_locator(_ticks(len(present)))


def _ticks(classes: int) -> MaxNLocator:
  return MaxNLocator(10 if classes <= 20 else 6, integer=True)


def _value(key: str, values: dict[str, float]) -> str:
  return f"{key} = {_number(values[key])}"


def _number(value: float) -> str:
  """With the minus sign of the axes."""
  return f"{value:.3g}".replace("-", "−")


def _class_at(present: np.ndarray, position: float) -> str:
  """The class in a row of the matrix, which has the present ones alone."""
  index = round(position)
  return str(present[index]) if 0 <= index < len(present) else ""
