"""What a config may say: every key, its type, what is allowed, and what it means.

The one table of settings. The checks, `--help` and the README are made from it.
"""

import difflib
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections
from ml_collections import config_dict

from nc_jax.errors import UserError
from nc_jax.training.data import SOURCES
from nc_jax.training.losses import LOSSES
from nc_jax.training.models import MODELS
from nc_jax.training.optim import OPTIMISERS


class Setting(NamedTuple):
  kind: type
  allowed: str
  accepts: Callable[[Any], bool]
  meaning: str
  optional: bool = False  # None is a value too, and says what is meant by it
  harmless: bool = False  # may change between the parts of one run
  names: tuple[str, ...] = ()


def _whole(low: int, meaning: str, high: int | None = None, **options) -> Setting:
  allowed = f"a whole number >= {low}" if high is None else f"a whole number in [{low}, {high}]"
  accepts = lambda x: low <= x and (high is None or x <= high)
  return Setting(int, allowed, accepts, meaning, **options)


def _real(allowed: str, accepts: Callable[[float], bool], meaning: str, **options) -> Setting:
  return Setting(
    float, f"a number {allowed}", lambda x: x < float("inf") and accepts(x), meaning, **options
  )


def _name(known: dict, meaning: str) -> Setting:
  names = tuple(known)
  return Setting(str, f"one of {', '.join(names)}", lambda x: x in names, meaning, names=names)


def _text(allowed: str, meaning: str, **options) -> Setting:
  return Setting(str, allowed, lambda x: bool(x), meaning, **options)


def _increasing(values, kind: type, low, high) -> bool:
  numbers = all(isinstance(x, kind) and not isinstance(x, bool) for x in values)
  return numbers and all(low < x < high for x in values) and list(values) == sorted(set(values))


SETTINGS: dict[str, Setting] = {
  "seed": _whole(0, "orders the examples, draws the data and the initial weights", 2**32 - 1),
  "data.name": _name(SOURCES, "data set"),
  "data.dir": _text("a folder", "where prepared TFDS data lie; None: $TFDS_DATA_DIR or "
                    "~/tensorflow_datasets", optional=True, harmless=True),
  "data.train_size": _whole(1, "train examples; None: all (digits: 1500)", optional=True),
  "data.test_size": _whole(1, "test examples; None: all (digits: 1500)", optional=True),
  "data.batch_size": _whole(1, "examples per step over all devices together"),
  "data.device_budget_mib": _real(">= 0", lambda x: x >= 0, "a data set up to this size, in MiB, "
                                  "lives on every device; a larger one is fed from the host",
                                  harmless=True),
  "model.name": _name(MODELS, "network"),
  "model.width": _whole(1, "units of a hidden layer"),
  "model.depth": _whole(1, "hidden layers"),
  "model.batch_norm": Setting(bool, "True or False", lambda x: True, "batch norm in each layer"),
  "loss.name": _name(LOSSES, "training loss"),
  "optim.name": _name(OPTIMISERS, "optimiser"),
  "optim.peak_lr": _real("> 0", lambda x: x > 0, "learning rate before the first decay"),
  "optim.momentum": _real("in [0, 1)", lambda x: 0 <= x < 1, "momentum (heavy ball)"),
  "optim.weight_decay": _real(">= 0", lambda x: x >= 0, "weight decay, on all parameters"),
  "optim.total_epochs": _whole(1, "epochs; the schedule and the observed epochs scale with it"),
  "optim.decay_at": Setting(tuple, "increasing shares in (0, 1)",
                            lambda x: _increasing(x, float, 0, 1),
                            "shares of the training after which the rate is multiplied"),
  "optim.decay_factor": _real("in (0, 1]", lambda x: 0 < x <= 1, "what the rate is multiplied by"),
  "optim.steps_per_call": _whole(1, "most steps of one compiled call", harmless=True),
  "observe.epochs": Setting(tuple, "increasing whole numbers >= 0",
                            lambda x: _increasing(x, int, -1, float("inf")),
                            "epochs to observe, besides the first and the last; None: log-spaced",
                            optional=True),
  "observe.layers": Setting(tuple, "names of tapped layers",
                            lambda x: all(isinstance(name, str) and name for name in x),
                            "layers to measure, besides the penultimate; None: all",
                            optional=True),
  "observe.batch_size": _whole(1, "examples per step and device while observing"),
  "observe.max_scatter_dim": _whole(0, "wider layers are measured without a [D, D] scatter: no "
                                    "nc1/vci and no ranks"),
  "observe.max_rank_dim": _whole(0, "wider layers are measured without the ranks, which cost D^3"),
  "checkpoint.every_epochs": _whole(1, "epochs between checkpoints", harmless=True),
  "checkpoint.max_to_keep": _whole(1, "checkpoints to keep, the latest; None: all", optional=True,
                                   harmless=True),
}  # fmt: skip


def flatten(config) -> dict[str, Any]:
  """A nested config as {"optim.peak_lr": 0.05, ...}."""
  flat = {}
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict | ml_collections.FrozenConfigDict | dict):
      flat |= {f"{name}.{key}": x for key, x in flatten(value).items()}
    else:
      flat[name] = value
  return flat


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
  """The inverse of `flatten`; groups are one level deep."""
  nested = {}
  for key, value in flat.items():
    group, _, name = key.rpartition(".")
    (nested.setdefault(group, {}) if group else nested)[name] = value
  return nested


def check_key(key: str):
  """Raises UserError, with the nearest known key, for a key that does not exist."""
  if key not in SETTINGS:
    raise UserError(f"config.{key} is not a setting{_nearest(key, SETTINGS)}")


def resolve(config) -> ml_collections.FrozenConfigDict:
  """The config, checked key by key and value by value. Raises UserError at the first misfit."""
  flat = flatten(config)
  for key in flat:
    check_key(key)
  for key in SETTINGS:
    if key not in flat:
      raise UserError(f"config.{key} is missing: {SETTINGS[key].meaning}.")
  nested = _nest({key: _checked(key, value) for key, value in flat.items()})
  return ml_collections.FrozenConfigDict(nested)


def _checked(key: str, value):
  setting = SETTINGS[key]
  if value is None and setting.optional:
    return None
  if setting.kind is float and isinstance(value, int) and not isinstance(value, bool):
    value = float(value)
  if setting.kind is tuple and isinstance(value, list):
    value = tuple(value)
  if key == "observe.layers" and isinstance(value, tuple) and len(value) == 1:
    value = tuple(value[0].split(","))  # `--config.observe.layers=a,b` arrives as one string
  right_type = isinstance(value, setting.kind) and (
    setting.kind is bool or not isinstance(value, bool)
  )
  if not right_type or not setting.accepts(value):
    none = " or None" if setting.optional else ""
    hint = _nearest(value, setting.names) if isinstance(value, str) else "."
    raise UserError(f"config.{key} = {value!r}, but must be {setting.allowed}{none}{hint}")
  return value


def _nearest(word: str, known) -> str:
  match = difflib.get_close_matches(word, known, n=1)
  return f". Did you mean {match[0]}?" if match else "."


# --- A config on disk ---------------------------------------------------------------------------


def to_json(config) -> str:
  return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(path: str | pathlib.Path) -> ml_collections.ConfigDict:
  """The config that a run left in its workdir, ready for overrides and for `resolve`."""
  try:
    flat = flatten(json.loads(pathlib.Path(path).read_text()))
  except (OSError, ValueError, AttributeError) as error:
    raise UserError(f"{path} is not a readable config: {error}") from error
  for key, value in flat.items():
    check_key(key)
    if value is None:  # a placeholder is a None that knows which type may take its place
      flat[key] = config_dict.placeholder(SETTINGS[key].kind)
    elif isinstance(value, list):
      flat[key] = tuple(value)
  return ml_collections.ConfigDict(_nest(flat))


def differences(old, new) -> list[str]:
  """What differs between two configs and matters to a run that goes on: `key: old -> new`."""
  old, new = flatten(old), flatten(new)
  return [
    f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
    for key in sorted(old | new)
    if old.get(key) != new.get(key) and not (key in SETTINGS and SETTINGS[key].harmless)
  ]
