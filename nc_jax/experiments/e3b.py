"""E3b: novel classes. Does more training make features worse for classes never seen?"""

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from nc_jax.experiments import transfer, transfer_figures
from nc_jax.experiments.claims import Claim, Table, per_seed
from nc_jax.experiments.results import Results

TITLE = "More training, more collapse, worse transfer: novel classes"
QUESTION = "Do features trained on some classes lose what tells other classes apart?"
CLAIM = (
  "The more the last layer collapses onto the classes that it is trained on, the worse it serves "
  "to tell novel classes apart, although the accuracy on its own still rises; early layers keep "
  "what they have."
)
TARGET = "held_out"
CAPTIONS = transfer_figures.captions("e3b")


def claims(results: Results) -> list[Claim]:
  """In each cell by itself. The probe is ridge regression with λ = 0.001 n, V(test) and accuracy
  are those of the classes trained on. No ceiling holds for classes that were never collapsed:
  the probe comes to a floor of its own, often long before V(test) comes to its, and what is
  judged of the two together ends there. The table has ρ of all epochs.
  """
  return [claim for cell in results.cells for claim in _of_cell(results, cell.name)]


def _of_cell(results: Results, cell: str) -> Iterator[Claim]:
  yield from transfer.rise_and_fall(results, cell, TARGET, drop=0.1, until_floor=True)
  names = transfer.probed_layers(results, cell, TARGET)
  first = transfer.course(results, cell, TARGET, names[0]) if names else None
  yield per_seed(
    "E3.4b",
    cell,
    "the first layer loses nothing: its final probe − the untrained network's",
    first.final - first.untrained if names else [np.nan],
    ">=",
    0,
  )


def table(results: Results) -> Table:
  return transfer.table(results, TARGET)


def figures(results: Results) -> dict[str, Figure]:
  return transfer_figures.draw(results, TARGET, "e3b")
