"""What a config may say: every key, its type, what is allowed, and what it means.

The one table of settings. The checks, `--help` and the README are made from it.
"""

import contextlib
import difflib
import json
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import ml_collections
from ml_collections import config_dict

from nc_jax.errors import UserError
from nc_jax.training.data import SOURCES
from nc_jax.training.heads import HEADS
from nc_jax.training.losses import LOSSES
from nc_jax.training.models import MODELS, PRECISIONS, STEMS, TAP_POOLINGS
from nc_jax.training.optim import OPTIMISERS, SCHEDULES
from nc_jax.training.probes import KINDS

_LARGEST = 2**31 - 1  # whole number of a setting: indices on devices are int32


class Setting(NamedTuple):
  kind: type
  allowed: str
  accepts: Callable[[Any], bool]
  meaning: str
  optional: bool = False  # None is a value too, and says what is meant by it
  harmless: bool = False  # may change between the parts of one run
  names: tuple[str, ...] = ()

  @property
  def choices(self) -> str:
    return self.allowed + (" or None" if self.optional else "")


def _whole(low: int, meaning: str, high: int | None = None, **options) -> Setting:
  allowed = f"a whole number >= {low}" if high is None else f"a whole number in [{low}, {high}]"
  accepts = lambda x: low <= x <= (_LARGEST if high is None else high)
  return Setting(int, allowed, accepts, meaning, **options)


def _real(allowed: str, accepts: Callable[[float], bool], meaning: str, **options) -> Setting:
  return Setting(
    float, f"a number {allowed}", lambda x: x < float("inf") and accepts(x), meaning, **options
  )


def _name(known: Iterable[str], meaning: str, **options) -> Setting:
  names = tuple(known)
  allowed = f"one of {', '.join(names)}"
  return Setting(str, allowed, lambda x: x in names, meaning, names=names, **options)


def _switch(meaning: str, **options) -> Setting:
  return Setting(bool, "True or False", lambda x: True, meaning, **options)


def _tuple(allowed: str, accepts: Callable[[tuple], bool], meaning: str, **options) -> Setting:
  return Setting(tuple, allowed, accepts, meaning, **options)


def _text(allowed: str, meaning: str, **options) -> Setting:
  return Setting(str, allowed, lambda x: bool(x), meaning, **options)


def _increasing(values, kind: type, low, high) -> bool:
  numbers = all(isinstance(x, kind) and not isinstance(x, bool) for x in values)
  return numbers and all(low < x < high for x in values) and list(values) == sorted(set(values))


_POSITIVE = ("> 0", lambda x: x > 0)
_NOT_NEGATIVE = (">= 0", lambda x: x >= 0)
_labels = lambda x: all(isinstance(y, int | str) and not isinstance(y, bool) for y in x) and x

def _distinct(values, kind: type) -> bool:
  numbers = all(isinstance(x, kind) and not isinstance(x, bool) for x in values)
  return numbers and all(0 < x < float("inf") for x in values) and len(set(values)) == len(values)


# An optional key may be left out of a config: it is then None.
SETTINGS: dict[str, Setting] = {
  "seed": _whole(0, "orders the examples, draws the data and the initial weights", 2**32 - 1),
  "compilation_cache": _text("a folder", "where compiled programs are kept for the next start; "
                             "None: $JAX_COMPILATION_CACHE_DIR, or nowhere", optional=True,
                             harmless=True),
  # What is learned.
  "data.name": _name(SOURCES, "data set"),
  "data.dir": _text("a path", "the TFDS folder (None: $TFDS_DATA_DIR or ~/tensorflow_datasets), "
                    "the image folder, or the .npz file", optional=True, harmless=True),
  "data.image_size": _whole(1, "images of TFDS and of folders are resized to so many pixels and "
                            "cropped to a square; None: as they are", optional=True),
  "data.train_size": _whole(1, "train examples, as many of each class; None: all (of sources that "
                            "draw them: 1500)", optional=True),
  "data.test_size": _whole(1, "test examples, likewise", optional=True),
  "data.balance": _switch("cut the train set to equal class sizes (digits: draw both splits so); "
                          "None: no", optional=True),
  "data.held_out": _tuple("labels or names of classes", _labels, "classes taken out of both splits",
                          optional=True),
  "data.imbalance": _name(("step", "exponential"), "class sizes of the train set; None: as they "
                          "are", optional=True),
  "data.imbalance_ratio": _real(">= 1", lambda x: x >= 1, "largest class over smallest; None: "
                                "only without imbalance", optional=True),
  "data.label_map": _tuple("one of animals_vehicles, superclasses, parity, halves, groups_of_N, or "
                           "a coarse label for each class", _labels, "classes to merge",
                           optional=True),
  "data.noise_rate": _real("in [0, 1)", lambda x: 0 <= x < 1, "share of train labels corrupted; "
                           "None: 0", optional=True),
  "data.noise_kind": _name(("symmetric", "pairwise"), "how they are corrupted; None: symmetric",
                           optional=True),
  "data.classes": _whole(2, "of gaussian_mixture; None: 10", optional=True),
  "data.dim": _whole(1, "of gaussian_mixture, >= classes - 1; None: 32", optional=True),
  "data.separation": _real(*_POSITIVE, "of gaussian_mixture: distance of class means, within-class "
                           "std 1; None: 4", optional=True),
  "data.super_classes": _whole(1, "of gaussian_mixture: groups of classes; None: 1", optional=True),
  "data.super_separation": _real(*_NOT_NEGATIVE, "of gaussian_mixture: distance of their centres; "
                                 "None: 12", optional=True),
  "data.augment": _switch("random crops and flips in training; None: no, as in the paper",
                          optional=True),
  "data.augment_padding": _name(("reflect", "zero"), "what lies beyond an image; None: reflect",
                                optional=True),
  # How it reaches the devices.
  "data.batch_size": _whole(1, "examples per step over all devices together"),
  "data.device_budget_mib": _real(*_NOT_NEGATIVE, "a data set up to this size, in MiB, lives on "
                                  "every device; a larger one is fed from the host; None: 1024",
                                  harmless=True, optional=True),
  "data.memory_budget_mib": _real(*_NOT_NEGATIVE, "one up to this size, in MiB, is held in the "
                                  "host's memory; a larger one is streamed from disk, its mean and "
                                  "deviation those of 1,024 images; None: 4096", optional=True),
  "data.read_threads": _whole(0, "threads that read a streamed set; None: 16", optional=True,
                              harmless=True),
  "data.cache_dir": _text("a folder", "where decoded images are kept for the next run; None: "
                          "nowhere", optional=True, harmless=True),
  # What learns it.
  "model.name": _name(MODELS, "network"),
  "model.width": _whole(1, "units or channels; None: as published", optional=True),
  "model.depth": _whole(1, "hidden layers or blocks (mlp, deep_linear, convnet, vit); None: the "
                        "network's own", optional=True),
  "model.batch_norm": _switch("batch norm in each layer (mlp, convnet); None: yes", optional=True),
  "model.stem": _name(STEMS, "first layers (resnet, vgg, densenet, vit); None: small below 64 "
                      "pixels", optional=True),
  "model.remat": _switch("compute the inside of blocks once more for the gradient, instead of "
                         "keeping it: less memory, more time; None: no", optional=True,
                         harmless=True),
  "model.precision": _name(PRECISIONS, "of convolutions and products; parameters and statistics "
                           "are float32; None: float32", optional=True),
  "head.name": _name(HEADS, "from features to logits; None: linear", optional=True),
  "head.bias": _switch("of linear: learn a bias; None: yes", optional=True),
  "head.normalise": _switch("features on the sphere; None: no (cosine: always)", optional=True),
  "head.temperature": _real(*_POSITIVE, "of cosine: divides the cosines; None: 0.2", optional=True),
  "head.scale": _real(*_POSITIVE, "of etf and frame: length of each row; None: 1", optional=True),
  "head.seed": _whole(0, "of etf and frame: turns it; None: 0", optional=True),
  # How.
  "loss.name": _name(LOSSES, "training loss"),
  "loss.smoothing": _real("in [0, 1)", lambda x: 0 <= x < 1, "of label_smoothing: weight of the "
                          "uniform target; None: 0.1", optional=True),
  "loss.gamma": _real(*_NOT_NEGATIVE, "of focal: the exponent (None: 2); of vs: that of n_k / max n"
                      " (None: 0.15)", optional=True),
  "loss.tau": _real(*_NOT_NEGATIVE, "of logit_adjusted (None: 1) and vs (None: 1.25): weight of "
                    "the log class share", optional=True),
  "loss.k": _real(*_POSITIVE, "of rescaled_squared_error: weight of the true class; None: 1",
                  optional=True),
  "loss.M": _real(*_POSITIVE, "of rescaled_squared_error: its target; None: 15", optional=True),
  "loss.temperature": _real(*_POSITIVE, "of supervised_contrastive: divides the cosines; None: 0.1",
                            optional=True),
  "optim.name": _name(OPTIMISERS, "optimiser"),
  "optim.peak_lr": _real(*_POSITIVE, "learning rate before the first decay"),
  "optim.momentum": _real("in [0, 1)", lambda x: 0 <= x < 1, "of sgd and sam (None: 0.9) and muon "
                          "(None: 0.95)", optional=True),
  "optim.nesterov": _switch("Nesterov's momentum; None: no (muon: yes)", optional=True),
  "optim.rho": _real(*_POSITIVE, "of sam: the radius; None: 0.05", optional=True),
  "optim.weight_decay": _real(*_NOT_NEGATIVE, "weight decay, on all parameters; within the momentum"
                              " (sgd, sam) or apart from it (adamw, muon)"),
  "optim.total_epochs": _whole(1, "epochs; the schedule and the observed epochs scale with it"),
  "optim.schedule": _name(SCHEDULES, "of the learning rate; None: step", optional=True),
  "optim.decay_at": _tuple("increasing shares in (0, 1)", lambda x: _increasing(x, float, 0, 1),
                           "of step: shares of the training after which the rate is multiplied; "
                           "None: 1/3, 2/3", optional=True),
  "optim.decay_factor": _real("in (0, 1]", lambda x: 0 < x <= 1, "of step: by this; None: 0.1",
                              optional=True),
  "optim.warmup_epochs": _real(*_NOT_NEGATIVE, "epochs of linear warm-up; None: 0", optional=True),
  "optim.accumulate": _whole(1, "micro-batches of a batch, taken one after another for one step: "
                             "less memory; batch norm sees one at a time; None: 1", optional=True),
  "optim.steps_per_call": _whole(1, "most steps of one compiled call", harmless=True),
  # What is seen of it.
  "observe.epochs": _tuple("increasing whole numbers >= 0",
                           lambda x: _increasing(x, int, -1, float("inf")),
                           "epochs to observe, besides the first and the last; None: log-spaced",
                           optional=True),
  "observe.layers": _tuple("names of tapped layers",
                           lambda x: all(isinstance(name, str) and name for name in x),
                           "layers to measure, besides the penultimate; None: all", optional=True),
  "observe.pooling": _name(TAP_POOLINGS, "what becomes of maps and tokens; None: average",
                           optional=True),
  "observe.batch_size": _whole(1, "examples per step and device while observing"),
  "observe.max_scatter_dim": _whole(0, "wider layers are measured without a [D, D] scatter: no "
                                    "nc1/vci and no ranks"),
  "observe.max_rank_dim": _whole(0, "wider layers are measured without the ranks, which cost D^3"),
  "observe.bootstrap": _whole(1, "bootstrap replicates over examples, in replicates/, and 95 % "
                              "intervals, KEY/low and KEY/high; None: none", optional=True),
  "observe.bootstrap_nc1": _switch("replicates of all of NC1, and not of V alone: at the end of "
                                   "every layer, at every observed epoch of the last layer's train "
                                   "features; N D^2 for each", optional=True),
  "observe.bootstrap_ranks": _switch("replicates of the numerical rank of every layer's train "
                                     "features at the end; N D^2 + D^3 for each", optional=True),
  "probe.target": _name(("fine", "held_out"), "what probes of frozen features learn: the labels "
                        "before label_map, or the classes of held_out; None: no probes",
                        optional=True),
  "probe.epochs": _tuple("increasing whole numbers >= 0",
                         lambda x: _increasing(x, int, -1, float("inf")),
                         "epochs to probe, besides the first and the last; None: the observed ones",
                         optional=True),
  "probe.ridge": _tuple("numbers > 0", lambda x: _distinct(x, float),
                        "penalties of ridge probes, over the number of examples; (): none; "
                        "None: 0.001", optional=True),
  "probe.logistic": _tuple("numbers > 0", lambda x: _distinct(x, float),
                           "penalties of logistic probes; (): none; None: 0.001", optional=True),
  "probe.knn": _tuple("whole numbers >= 1", lambda x: _distinct(x, int), "numbers of nearest "
                      "neighbours; (): none; None: 5", optional=True),
  "probe.every_layer": _tuple(f"some of {', '.join(KINDS)}",
                              lambda x: set(x) <= set(KINDS) and len(set(x)) == len(x),
                              "kinds of probes that every layer has, and not the last alone; "
                              "None: all", optional=True),
  "checkpoint.every_epochs": _whole(1, "epochs between checkpoints", harmless=True),
  "checkpoint.max_to_keep": _whole(1, "checkpoints to keep, the latest; None: all", optional=True,
                                   harmless=True),
}  # fmt: skip

# Tuples of names, which a command line writes as one string: a,b
_NAMES = ("observe.layers", "data.label_map", "data.held_out")


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
  """Raises UserError, with the nearest known key or all beside it, for one that does not exist."""
  if key in SETTINGS:
    return
  section, _, name = key.partition(".")
  begin = f"{section}."
  names = [known.removeprefix(begin) for known in SETTINGS if known.startswith(begin)]
  if names and not difflib.get_close_matches(name, names):
    raise UserError(f"config.{key} is not a setting; {section} has {', '.join(names)}.")
  known = [begin + name for name in names] or SETTINGS
  raise UserError(f"config.{key} is not a setting{_nearest(key, known)}")


def resolve(config) -> ml_collections.FrozenConfigDict:
  """The config, checked key by key, value by value, and for keys that mean nothing without another.

  Raises UserError at the first misfit.
  """
  flat = flatten(config)
  for key in flat:
    check_key(key)
  for key, setting in SETTINGS.items():
    if key not in flat and not setting.optional:
      raise UserError(f"config.{key} is missing: {setting.meaning}.")
  checked = {key: _checked(key, flat.get(key)) for key in SETTINGS}
  for key in ("observe.bootstrap_nc1", "observe.bootstrap_ranks"):
    if checked[key] and checked["observe.bootstrap"] is None:
      raise UserError(f"config.{key} = True, but config.observe.bootstrap is None.")
  return ml_collections.FrozenConfigDict(_nest(checked))


def _checked(key: str, value):
  setting = SETTINGS[key]
  if value is None and setting.optional:
    return None
  if setting.kind is float and isinstance(value, int) and not isinstance(value, bool):
    with contextlib.suppress(OverflowError):
      value = float(value)
  if setting.kind is tuple and isinstance(value, list):
    value = tuple(value)
  if key in _NAMES and isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], str):
    value = tuple(value[0].split(","))
  right_type = isinstance(value, setting.kind) and (
    setting.kind is bool or not isinstance(value, bool)
  )
  if not right_type or not setting.accepts(value):
    hint = _nearest(value, setting.names) if isinstance(value, str) else "."
    if right_type and setting.kind is int and value > _LARGEST:
      hint = f", and at most {_LARGEST}."
    raise UserError(f"config.{key} = {_short(value)}, but must be {setting.choices}{hint}")
  return value


def _short(value) -> str:
  text = repr(value)
  return text if len(text) <= 100 else f"{text[:100]}..."


def _nearest(word: str, known) -> str:
  match = difflib.get_close_matches(word, known, n=1)
  return f". Did you mean {match[0]}?" if match else "."


def complete(config) -> ml_collections.ConfigDict:
  """The config with every optional key that it leaves out, ready for overrides.

  Such a key, and one that is None, becomes a placeholder: a None that knows which type may take
  its place.
  """
  flat = flatten(config)
  for key in flat:
    check_key(key)
  for key, setting in SETTINGS.items():
    if setting.optional and flat.get(key) is None:
      flat[key] = config_dict.placeholder(setting.kind)
  return ml_collections.ConfigDict(_nest(flat))


# --- A config on disk ---------------------------------------------------------------------------


def to_json(config) -> str:
  return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(path: str | pathlib.Path) -> ml_collections.ConfigDict:
  """The config that a run left in its workdir, ready for overrides and for `resolve`."""
  try:
    flat = flatten(json.loads(pathlib.Path(path).read_text(encoding="utf-8")))
  except (OSError, ValueError, AttributeError, RecursionError) as error:
    raise UserError(f"{path} is not a readable config: {error}") from error
  for key, value in flat.items():
    with _in(path):
      check_key(key)
    if isinstance(value, list):
      flat[key] = tuple(value)
  return complete(ml_collections.ConfigDict(_nest(flat)))


def saved(path: str | pathlib.Path) -> ml_collections.FrozenConfigDict:
  """The config that a run left in its workdir, resolved."""
  config = from_json(path)
  with _in(path):
    return resolve(config)


@contextlib.contextmanager
def _in(path: str | pathlib.Path):
  """Says in which file a config is wrong."""
  try:
    yield
  except UserError as error:
    raise UserError(f"{path}: {error}") from error


def differences(old, new) -> list[str]:
  """What differs between two configs and matters to a run that goes on: `key: old -> new`."""
  old, new = flatten(old), flatten(new)
  return [
    f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
    for key in sorted(old | new)
    if old.get(key) != new.get(key) and not (key in SETTINGS and SETTINGS[key].harmless)
  ]
