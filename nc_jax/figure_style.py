"""What all figures share: how they look, and the matrix that most of them show."""

import numpy as np

# Okabe & Ito's colours, told apart by everybody.
BLUE, ORANGE, GREEN, PURPLE, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"
STYLE = {
  "font.size": 9,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "grid.alpha": 0.25,
  "legend.frameon": False,
  "figure.constrained_layout.use": True,
}


def cosines(vectors: np.ndarray) -> np.ndarray:
  """[K, K] cosines between the rows of [K, D]; 0 with a row of zeros."""
  norms = np.linalg.norm(vectors, axis=1, keepdims=True)
  units = vectors / np.where(norms > 0, norms, 1)
  return units @ units.T
