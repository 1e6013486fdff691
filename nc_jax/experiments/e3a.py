"""E3a: coarse to fine. Does more training, and more collapse, make features worse?"""

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from nc_jax.experiments import transfer, transfer_figures
from nc_jax.experiments.claims import Claim, Table, per_seed, three_digits
from nc_jax.experiments.results import Results

TITLE = "More training, more collapse, worse transfer: coarse to fine"
QUESTION = "Do features trained on coarse classes lose what tells the fine classes apart?"
CLAIM = (
  "The more the features collapse onto the classes that they are trained on, the worse they serve "
  "a finer task, although the accuracy on the coarse one still rises."
)
TARGET = "fine"
CAPTIONS = transfer_figures.captions("e3a")


def claims(results: Results) -> list[Claim]:
  """In each cell by itself. The probe is ridge regression with λ = 0.001 n on the last layer.

  The ceiling is the best accuracy that fully collapsed test features leave to any probe; a
  sample may go a little below it, hence the 0.02.
  """
  return [claim for cell in results.cells for claim in _of_cell(results, cell.name)]


def _of_cell(results: Results, cell: str) -> Iterator[Claim]:
  last = transfer.course(results, cell, TARGET)
  ceiling = transfer.ceiling(results, cell, TARGET).final
  beside = f" (ceiling {three_digits(ceiling.mean())})" if len(ceiling) else ""
  yield from transfer.rise_and_fall(results, cell, TARGET, drop=0.2, beside=beside)
  yield per_seed(
    "E3.2",
    cell,
    f"worse than no training: final probe − untrained network's{beside}",
    last.final - last.untrained,
    "<=",
    0,
  )
  for item, text, relation, threshold in (
    ("E3.2b", "from above", ">=", -0.02),
    ("E3.2c", "near it", "<=", 0.1),
  ):
    text = f"it approaches the ceiling, {text}: final probe − ceiling, mean over seeds{beside}"
    above = last.final - ceiling
    mean = float(above.mean()) if len(above) else np.nan
    yield Claim(item, cell, text, mean, relation, threshold)


def table(results: Results) -> Table:
  return transfer.table(results, TARGET)


def figures(results: Results) -> dict[str, Figure]:
  return transfer_figures.draw(results, TARGET, "e3a")
