"""Sweep files: settings and their values in, the cells of a grid out.

  {"optim.peak_lr": [0.01, 0.1], "optim.weight_decay": {"log": [1e-4, 1e-2, 5]}}

is JSON, and asks for every combination. Values are a list, or `{"log": [low, high, number]}` or
`{"linear": [low, high, number]}`. A list of such objects is a union: the grids one after another,
and what they have in common once.
"""

import collections
import itertools
import json
import math
import pathlib
import sys
import zlib
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from nc_jax import settings
from nc_jax.errors import UserError
from nc_jax.experiments.results import Cell
from nc_jax.settings import SETTINGS

MOST_CELLS = 10_000
NUM_EPOCHS = 12  # to observe, where nothing else was asked for

_SPACES = {"log": np.geomspace, "linear": np.linspace}
_DIGITS = 6  # of the numbers between the ends of a range, which folders are named after
_LONGEST_NAME = 200  # a folder's name ends at 255 bytes

Grid = dict[str, list]  # {"optim.peak_lr": [0.01, 0.1]}: a cell for each combination


def read(path: pathlib.Path) -> list[Grid]:
  """The grids that a sweep file asks for, its ranges as lists.

  Raises UserError for whatever is wrong with it, except values that a setting refuses.
  """
  try:
    asked = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_Once)
  except json.JSONDecodeError as error:
    raise UserError(f"--sweep={path}, line {error.lineno}: {error.msg}.") from error
  except OSError as error:
    raise UserError(f"--sweep={path} cannot be read: {error.strerror}.") from error
  except (ValueError, RecursionError) as error:  # UserError among them
    raise UserError(f"--sweep={path}: {error}") from error
  try:
    grids = [_grid(each) for each in (asked if isinstance(asked, list) else [asked])]
    if not grids:
      raise UserError("an empty list asks for nothing.")
    count = sum(math.prod(map(len, grid.values())) for grid in grids)
    if count > MOST_CELLS:
      raise UserError(f"{count:,} cells, but {MOST_CELLS:,} are the most.")
  except UserError as error:
    raise UserError(f"--sweep={path}: {error}") from error
  return grids


class _Once(dict):
  """A JSON object in which no key stands twice; `json` would keep the last in silence."""

  def __init__(self, pairs):
    super().__init__(pairs)
    for key, times in collections.Counter(key for key, _ in pairs).items():
      if times > 1:
        raise UserError(f"{key!r} stands twice in one object.")


def _grid(asked) -> Grid:
  if not isinstance(asked, dict) or not asked:
    raise UserError(f'expected settings with their values, {{"KEY": [...]}}; got {_short(asked)}.')
  return {key: _values(key, values) for key, values in asked.items()}


def _values(key: str, asked) -> list:
  settings.check_key(key)
  if key == "seed":
    raise UserError("config.seed: seeds are chosen by --seeds.")
  if isinstance(asked, dict) and len(asked) == 1 and next(iter(asked)) in _SPACES:
    return _range(key, *next(iter(asked.items())))
  if not isinstance(asked, list) or not asked:
    raise UserError(
      f'config.{key}: expected a list of values, {{"log": [low, high, number]}} or '
      f'{{"linear": [low, high, number]}}; got {_short(asked)}.'
    )
  return asked


def _range(key: str, space: str, asked) -> list:
  """Numbers between two ends, which are kept as they are; of a whole number, whole numbers."""
  kind = SETTINGS[key].kind
  if kind not in (int, float):
    raise UserError(f"config.{key} is {SETTINGS[key].choices}: {space} is for numbers.")
  sound = (
    isinstance(asked, list)
    and len(asked) == 3
    and all(type(x) in (int, float) and abs(x) <= sys.float_info.max for x in asked)
    and asked[0] < asked[1]
    and (space == "linear" or asked[0] > 0)
    and type(asked[2]) is int
    and asked[2] >= 2
  )
  if not sound:
    raise UserError(
      f"config.{key}: {space} needs [low, high, number], {'0 < ' * (space == 'log')}low < high, "
      f"number >= 2; got {_short(asked)}."
    )
  low, high, number = asked
  if number > MOST_CELLS:
    raise UserError(f"config.{key}: {number:,} values, but {MOST_CELLS:,} are the most.")
  if kind is int:
    return list(dict.fromkeys(round(x) for x in _SPACES[space](low, high, number)))
  between = [float(f"{x:.{_DIGITS}g}") for x in _SPACES[space](low, high, number)[1:-1]]
  return [float(low), *between, float(high)]


def cells(grids: Sequence[Grid], config, path: pathlib.Path, given: Sequence[str]) -> list[Cell]:
  """The cells of grids around a config, in their order and each once.

  A cell is named after what its own grid sets, so that runs keep their folders when a sweep file
  grows. Its `values` hold every setting that any grid sets.

  Args:
    config: resolved.
    path: the sweep file, for complaints.
    given: keys that the command line sets: not to be swept, nor replaced by what `_frugal` holds.

  Raises UserError for a key in `given` that is swept, and for a value that its setting refuses.
  """
  swept = list(dict.fromkeys(key for grid in grids for key in grid))
  for key in swept:
    if key in given:
      raise UserError(
        f"config.{key}: either --config.{key} or --sweep={path} can set it, not both."
      )
  base = settings.flatten(config)
  found = {}
  for grid in grids:
    checked = [[_checked(config, key, x, path) for x in values] for key, values in grid.items()]
    for combination in itertools.product(*checked):
      own = dict(zip(grid, combination, strict=True))
      values = {key: base[key] for key in swept} | own
      at = tuple(values.values())
      if at not in found:
        found[at] = Cell(_name(own), _with(config, _frugal(base | own, given) | own), values)
  return list(found.values())


def _checked(config, key: str, value, path: pathlib.Path):
  """The value as the setting holds it: 1 as 1.0, a list as a tuple."""
  try:
    return settings.flatten(settings.resolve(_with(config, {key: value})))[key]
  except UserError as error:
    raise UserError(f"--sweep={path}: {error}") from error


def _with(config, values: dict[str, Any]) -> ml_collections.ConfigDict:
  nested = config.to_dict()
  for key, value in values.items():
    group, _, name = key.rpartition(".")
    (nested[group] if group else nested)[name] = value
  return ml_collections.ConfigDict(nested)


def _frugal(flat: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
  """What a sweep observes unless a config says otherwise: little, for its runs are many."""
  total = flat["optim.total_epochs"]
  spaced = sorted({round(epoch) for epoch in np.geomspace(1, total, NUM_EPOCHS - 1)})
  frugal = {"observe.layers": (), "observe.epochs": tuple(spaced)}
  return {k: v for k, v in frugal.items() if flat[k] is None and k not in given}


def _name(values: dict[str, Any]) -> str:
  name = ", ".join(f"{key}={to_text(value)}" for key, value in values.items())
  if len(name) <= _LONGEST_NAME:
    return name
  return f"{name[:_LONGEST_NAME]}... {zlib.crc32(name.encode()):08x}"


def to_text(value) -> str:
  """A value as a command line says it: 0.0005, 1, mlp, True, None, or a,b for a tuple."""
  if isinstance(value, tuple):
    return ",".join(map(to_text, value)) or "()"
  return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _short(asked) -> str:
  text = json.dumps(asked)
  return text if len(text) <= 60 else f"{text[:60]}..."
