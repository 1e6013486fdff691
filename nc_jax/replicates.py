"""Replicates on disk: what other examples would have made of the numbers, an epoch a file.

`replicates/EPOCH.npz` holds an array [R] for each number, named "SPLIT/LAYER/KEY". The r-th entries
of all arrays belong together: whatever is computed of the numbers can be computed of them.
"""

import pathlib

import numpy as np

from nc_jax import npz
from nc_jax.files import replacing

_FOLDER = "replicates"


def save(workdir: pathlib.Path, epoch: int, replicates: dict[tuple[str, str, str], np.ndarray]):
  """Writes {(split, layer, key): [R]}; nothing if there are none."""
  if not replicates:
    return
  path = workdir / _FOLDER / f"{epoch}.npz"
  path.parent.mkdir(exist_ok=True)
  with replacing(path, "wb") as file:
    np.savez(file, **{"/".join(place): np.float32(x) for place, x in replicates.items()})


def load(workdir: pathlib.Path) -> dict[tuple[str, str, str], dict[int, np.ndarray]]:
  """{(split, layer, key): {epoch: float32 [R]}}, empty where there are none.

  Raises UserError for a file that is damaged.
  """
  found = {}
  for path in (workdir / _FOLDER).glob("[0-9]*.npz"):
    with npz.readable(path), np.load(path) as file:
      for name in file.files:
        split, layer, key = name.split("/", 2)
        found.setdefault((split, layer, key), {})[int(path.stem)] = file[name]
  return found
