"""A sweep file: which settings take which values."""

import itertools
import json
import pathlib
from typing import Any

import numpy as np

from nc_jax import settings
from nc_jax.errors import UserError
from nc_jax.experiments.results import Cell

_MOST = 10_000  # cells
_SPACINGS = {"log": np.geomspace, "linear": np.linspace}


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """The points of a sweep, {"optim.peak_lr": 0.1, ...} each, in the order of the file.

  The file is JSON: an object of settings with their values, whose combinations are the points, or
  a list of such objects, whose points follow one another, each but once. Values are a list, or
  {"log": [first, last, number]} or {"linear": [first, last, number]}.

  Raises UserError for whatever is wrong with it, but for values that a setting refuses.
  """
  refuse = lambda why: UserError(f"--sweep={path} {why}")
  try:
    content = json.loads(path.read_text())
  except OSError as error:
    raise refuse(f"cannot be read: {error.strerror}.") from error
  except ValueError as error:  # of JSON, or bytes that are no text
    raise refuse(f"is not JSON: {error}.") from error
  points = {}
  for grid in content if isinstance(content, list) else [content]:
    if not isinstance(grid, dict) or not grid:
      raise refuse("must be an object of settings and their values, or a list of such.")
    for key in grid:
      settings.check_key(key)
      if key == "seed":
        raise refuse("names seed: seeds are chosen by --seeds.")
    axes = {key: _values(key, values, refuse) for key, values in grid.items()}
    for combination in itertools.product(*axes.values()):
      point = dict(zip(axes, combination, strict=True))
      points.setdefault(json.dumps(point, sort_keys=True), point)
      if len(points) > _MOST:
        raise refuse(f"has more than {_MOST:,} cells.")
  return list(points.values())


def _values(key: str, values, refuse) -> list:
  if isinstance(values, list) and values:
    return values
  if isinstance(values, dict) and len(values) == 1:
    ((spacing, bounds),) = values.items()
    if spacing in _SPACINGS and isinstance(bounds, list) and len(bounds) == 3:
      first, last, number = bounds
      real = all(type(x) in (int, float) for x in (first, last))
      positive = spacing == "linear" or (real and first > 0 and last > 0)
      if real and positive and type(number) is int and number >= 1:
        # three digits that stay equal wherever they are computed
        return [float(f"{x:.6g}") for x in _SPACINGS[spacing](first, last, number)]
  raise refuse(
    f'gives {key} = {json.dumps(values)}, but it must be a list of values, {{"log": [first, last, '
    'number]} of numbers above 0, or {"linear": [first, last, number]}.'
  )


def cells(config, points: list[dict[str, Any]]) -> list[Cell]:
  """The config at each point. Raises UserError for a value that its setting refuses."""
  found = []
  for point in points:
    flat = settings.flatten(config)
    for key, value in point.items():
      flat[key] = tuple(value) if isinstance(value, list) else value
    name = ", ".join(f"{key}={_word(value)}" for key, value in point.items())
    changed = settings.complete(settings.nest(flat))
    settings.resolve(changed)
    found.append(Cell(name, changed, point))
  return found


def _word(value) -> str:
  return f"{value:g}" if isinstance(value, float) else str(value)
