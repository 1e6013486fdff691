"""E4: cascading collapse. Where and when else does collapse happen?"""

from collections.abc import Iterator
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from nc_jax import depth
from nc_jax.experiments import e4_figures, layers
from nc_jax.experiments.claims import Claim, Table, measured, per_seed
from nc_jax.experiments.penultimate import V, gap_column
from nc_jax.experiments.results import Results
from nc_jax.experiments.statistics import ratio, share_of_fall
from nc_jax.experiments.transfer import HEADLINE

TITLE = "Cascading collapse across layers"
QUESTION = "In which layers and when does collapse happen?"
CLAIM = (
  "Collapse cascades: some form of it happens in the layers before the last too, the later the "
  "layer the earlier and the deeper."
)
CAPTIONS = {  # of each figure: what stands below it, and what it shows, for those who do not see it
  "e4_heatmap": (
    "V of every layer along training",
    "Heat maps of V(train) and of V(test) over epochs and layers, colours logarithmic",
  ),
  "e4_depth": (
    "V against depth, a line per epoch",
    "V(train) and V(test) against the layer, logarithmic, a line for each of a few epochs",
  ),
  "e4_cascade": (
    "When each layer first falls below a threshold",
    "The first epoch at which V(train) of each layer is below each of a few thresholds",
  ),
}

# Half as much variance within the classes as between them. The stand-in's upper layers get there
# within the first tens of epochs, one after another, and only the first two never: at 1 the upper
# layers cross together in the first epochs, at 0.1 some of the lower ones not at all.
THRESHOLD = 0.5
THRESHOLDS = (1.0, THRESHOLD, 0.2, 0.1)


def claims(results: Results) -> list[Claim]:
  """In each cell by itself, seed by seed; layers are counted from the input."""
  return [claim for cell in results.cells for claim in _of_cell(results, cell.name)]


def _of_cell(results: Results, cell: str) -> Iterator[Claim]:
  claim = partial(per_seed, cell=cell)
  names, epochs, V_along = layers.curves(results, cell, "train", V)
  train, test = (layers.final(results, cell, split, V) for split in ("train", "test"))
  gap = ratio(test, train)
  order = np.array([[_order(of_layers) for of_layers in seed] for seed in V_along])
  order = order.reshape(V_along.shape[:2])

  yield claim(
    item="E4.1",
    text="untrained, V(train) grows with depth: Spearman's ρ of depth and V at epoch 0",
    seeds=order[:, 0] if 0 in epochs else np.full(len(order), np.nan),
    relation=">=",
    threshold=0.8,
  )
  yield claim(
    item="E4.1b",
    text="trained, it falls with depth: Spearman's ρ of depth and V(train) at the end",
    seeds=map(_order, train),
    relation="<=",
    threshold=-0.9,
  )
  yield claim(
    item="E4.1c",
    text="the order flips within the first epochs: first observed epoch with ρ < 0",
    seeds=[_flip(epochs, of_seed) for of_seed in order],
    relation="<=",
    threshold=3,
  )
  first = [depth.first_below(of_seed, epochs, THRESHOLD) for of_seed in V_along]
  yield claim(
    item="E4.2",
    text="last layers first: Spearman's ρ of depth and the first epoch with V(train) < "
    f"{THRESHOLD} (never is last)",
    seeds=[depth.cascade_score(of_seed) if names else np.nan for of_seed in first],
    relation="<=",
    threshold=-0.8,
  )
  yield Claim(
    "E4.2b",
    cell,
    f"layers whose V(train) falls below {THRESHOLD} later than that of the layer before, of the "
    "mean curve over seeds",
    _violations(depth.first_below(V_along.mean(axis=0), epochs, THRESHOLD))
    if len(V_along)
    else np.nan,
    "<=",
    0,
  )
  yield claim(
    item="E4.3",
    text="log V(train) at the end is roughly linear in the layer: R²",
    seeds=[_line(of_seed).r_squared for of_seed in train],
    relation=">=",
    threshold=0.9,
  )
  yield claim(
    item="E4.3b",
    text="the first layer hardly collapses: its V(train) at the end",
    seeds=train[:, 0] if train.size else [],
    relation=">=",
    threshold=1,
  )
  upper = train.shape[1] // 2
  yield claim(
    item="E4.4",
    text="V(test) saturates with depth: over the upper half of the layers at the end, fall of "
    "log V(test) / fall of log V(train)",
    seeds=share_of_fall(test[:, upper:], train[:, upper:]),
    relation="<=",
    threshold=0.3,
  )
  yield claim(
    item="E4.4b",
    text="the gap opens with depth: Spearman's ρ of depth and V(test)/V(train) at the end",
    seeds=map(_order, gap),
    relation=">=",
    threshold=0.8,
  )
  yield claim(
    item="E4.4c",
    text="and in the upper layers only: V(test)/V(train) of the first layer at the end",
    seeds=gap[:, 0] if gap.size else [],
    relation="<=",
    threshold=2,
  )


def table(results: Results) -> Table:
  """Per cell a row per layer at the end of training, and one of layer "all" for the whole."""
  rows = []
  for cell in (cell.name for cell in results.cells):
    about = {"cell": cell, "seeds": len(results.seeds(cell))}
    _, epochs, V_along = layers.curves(results, cell, "train", V)
    rows.append(about | {"layer": "all"} | _whole(results, cell, epochs, V_along))
    rows += [about | {"layer": name} | _layer(results, cell, name) for name in results.layers(cell)]
  return Table.of(rows)


def depth_along_training(results: Results) -> Table:
  """Where collapse has got to: a row per cell, seed and observed epoch.

  Effective depth; tunnel start, at epochs with probes; Spearman's ρ of depth and V(train); R² of
  log V(train) over the layers.
  """
  rows = []
  for cell in (cell.name for cell in results.cells):
    headlines = _headlines(results, cell)
    curves = {
      name: layers.curves(results, cell, split, key)
      for name, split, key in (
        ("V", "train", V),
        ("error", "train", "nc4/ncc_error"),
        *((key, "test", key) for key in headlines),
      )
    }
    for number, seed in enumerate(results.seeds(cell)):
      at = {
        name: dict(zip(epochs, values[number], strict=True))
        for name, (_, epochs, values) in curves.items()
      }
      for epoch, own in at["V"].items():
        row = {"cell": cell, "seed": seed, "epoch": int(epoch)}
        if epoch in at["error"]:
          row["effective depth"] = depth.ncc_depth(at["error"][epoch])
        for key in headlines:
          if epoch in at[key]:
            row[f"tunnel start ({key.split('/')[1]})"] = depth.tunnel_start(at[key][epoch])
        row |= {"rank correlation of depth and V(train)": _order(own)}
        row |= {"R² of log V(train)": _line(own).r_squared}
        rows.append(row)
  return Table.of(rows)


def _headlines(results: Results, cell: str) -> list[str]:
  """The keys of the headline probe, by whatever labels."""
  names = results.layers(cell)
  keys = results.keys(cell, "test", names[-1]) if names else []
  return [key for key in keys if key.startswith("probe/") and key.endswith(f"/{HEADLINE}")]


def _whole(results: Results, cell: str, epochs: np.ndarray, V_along: np.ndarray) -> dict:
  train = layers.final(results, cell, "train", V)
  errors = layers.final(results, cell, "train", "nc4/ncc_error")
  if not train.size:
    return {}
  lines = [_line(of_seed) for of_seed in train]
  row = measured("effective depth", [depth.ncc_depth(of_seed) for of_seed in errors])
  for key in _headlines(results, cell):
    accuracies = layers.final(results, cell, "test", key)
    starts = [depth.tunnel_start(of_seed) for of_seed in accuracies]
    row |= measured(f"tunnel start ({key.split('/')[1]})", starts)
  for threshold in THRESHOLDS if V_along.shape[2] else ():
    first = [depth.first_below(of_seed, epochs, threshold) for of_seed in V_along]
    row |= measured(f"cascade score at {threshold:g}", [depth.cascade_score(f) for f in first])
  row |= measured("R² of log V(train)", [line.r_squared for line in lines])
  return row | measured("V(train) per layer", [np.exp(line.slope) for line in lines])


def _layer(results: Results, cell: str, name: str) -> dict:
  row = {}
  for column, split, key in (
    ("V(train)", "train", V),
    ("V(test)", "test", V),
    ("NCC error(train)", "train", "nc4/ncc_error"),
    ("rank(train)", "train", "rank/numerical"),
  ):
    row |= measured(column, results.final(cell, split, name, key))
  row |= gap_column(results, cell, name)
  epochs, V_along = results.curve(cell, "train", name, V)
  for threshold in THRESHOLDS:
    first = [depth.first_below(of_seed[:, None], epochs, threshold)[0] for of_seed in V_along]
    row |= measured(f"first epoch below {threshold:g}", first)
  return row


MORE_TABLES = {"depth": depth_along_training}  # for further work, as CSV alone


def figures(results: Results) -> dict[str, Figure]:
  return {
    "e4_heatmap": e4_figures.heat_map(results),
    "e4_depth": e4_figures.over_depth(results),
    "e4_cascade": e4_figures.cascade(results, THRESHOLDS),
  }


def _order(values: np.ndarray) -> float:
  """Spearman's ρ of depth with values [layers]."""
  return depth.rank_correlation(np.arange(len(values)), values)


def _line(values: np.ndarray) -> depth.LogLine:
  return depth.log_linearity(values) if len(values) else depth.LogLine(np.nan, np.nan)


def _flip(epochs: np.ndarray, order: np.ndarray) -> float:
  """The first epoch at which later layers are the more collapsed; nan unless they were less."""
  flipped = epochs[order < 0]
  return float(flipped[0]) if len(flipped) and order[0] > 0 else np.nan


def _violations(first_epochs: np.ndarray) -> float:
  """How many layers cross later than the one before, never being last; nan where none crosses."""
  if np.isnan(first_epochs).all():
    return np.nan
  first_epochs = np.where(np.isnan(first_epochs), np.inf, first_epochs)
  return float(np.sum(first_epochs[1:] > first_epochs[:-1]))
