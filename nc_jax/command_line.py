"""The command line: flags and a config file in, a checked request out."""

import difflib
import importlib.util
import pathlib
import re
import textwrap
from typing import NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_dict, config_flags

from nc_jax import processes, settings
from nc_jax.errors import UserError
from nc_jax.settings import SETTINGS


class Request(NamedTuple):
  """A command line, read and checked as far as it can be without touching a device."""

  workdir: pathlib.Path
  config: object  # resolved
  observe_only: bool
  cluster: processes.Cluster | None  # where several processes meet


def parse(argv: list[str]) -> Request:
  """Reads the command line. Raises UserError for whatever is wrong with it."""
  source, rest = _take("config", argv[1:])
  workdir, _ = _take("workdir", rest)
  if not workdir:
    raise UserError("--workdir=DIR is missing: it is where results go. See --help.")
  if source is None and any(re.fullmatch("--?observe_only(=(true|1))?", arg) for arg in rest):
    source = f"{workdir}/config.json"
    if not pathlib.Path(source).exists():
      raise UserError(f"--workdir={workdir} holds no run to observe.")
  values = flags.FlagValues()
  flags.DEFINE_string("workdir", None, "", flag_values=values)
  for name in ("observe_only", "distributed"):
    flags.DEFINE_bool(name, False, "", flag_values=values)
  flags.DEFINE_string("coordinator", None, "", flag_values=values)
  for name in ("num_processes", "process_id"):
    flags.DEFINE_integer(name, None, "", flag_values=values)
  config = read_config(source, rest, values)
  cluster = processes.cluster(
    values.distributed, values.coordinator, values.num_processes, values.process_id
  )
  return Request(pathlib.Path(workdir), config, values.observe_only, cluster)


def read_config(
  source: str | None, arguments: list[str], values: flags.FlagValues | None = None
) -> ml_collections.FrozenConfigDict:
  """The config FILE[:VARIANT] with the overrides --config.KEY=VALUE among the arguments, resolved.

  `values` defines the flags that may stand beside them, and learns what they say; None: no others.
  Raises UserError for whatever is wrong with the file or the arguments.
  """
  if not source:
    for arg in arguments:
      name = arg.partition("=")[0].lstrip("-")
      if "." not in name and difflib.get_close_matches(name, ["config"]):
        raise UserError(f"{arg!r} is not understood. Did you mean --config?")
    raise UserError("--config=FILE is missing, such as --config=configs/digits.py. See --help.")
  path = source if pathlib.Path(source).exists() else source.rsplit(":", 1)[0]
  if not pathlib.Path(path).is_file():
    raise UserError(f"--config={source}: there is no file {path}.")
  config = settings.from_json(path) if path.endswith(".json") else load_config(source)
  return settings.resolve(override(config, arguments, values))


def override(
  config: ml_collections.ConfigDict, arguments: list[str], values: flags.FlagValues | None = None
) -> ml_collections.ConfigDict:
  """A complete config, changed as the overrides --config.KEY=VALUE among the arguments say.

  `values` as in `read_config`. Raises UserError for whatever is wrong with the arguments.
  """
  refuse = lambda arg: UserError(
    f"{arg!r} is not understood; settings are written --config.KEY=VALUE."
  )
  for arg in arguments:  # absl's own: what a file says, and what is then not refused
    if re.match("--?(flagfile|undefok)(=|$)", arg):
      raise refuse(arg)
  for key in overridden(arguments):
    settings.check_key(key)
  values = flags.FlagValues() if values is None else values
  argv = ["nc_jax", *_clear(config, arguments)]
  holder = config_flags.DEFINE_config_dict(
    "config", config, sys_argv=argv, flag_values=values, lock_config=True
  )
  try:
    extra = values(argv)[1:]
  except flags.IllegalFlagValueError as error:
    raise UserError(_explain(str(error))) from error
  except (flags.Error, ValueError) as error:  # the latter for --noconfig.KEY=VALUE
    raise UserError(str(error)) from error
  if extra:
    raise refuse(extra[0])
  return holder.value


def overridden(arguments: list[str]) -> list[str]:
  """The keys that --config.KEY=VALUE among the arguments name."""
  found = (re.match(r"--?(?:no)?config\.([^=]*)", arg) for arg in arguments)
  return [match[1] for match in found if match]


def load_config(source: str) -> ml_collections.ConfigDict:
  """What FILE[:VARIANT] says, complete. Raises UserError for whatever the file raises."""
  path, variant = (source, "") if pathlib.Path(source).exists() else source.rsplit(":", 1)
  config = call(path, "get_config", *filter(None, [variant]), says=f"--config={source}")
  return settings.complete(config)


def call(path: str | pathlib.Path, function: str, *arguments, says: str):
  """What a function of a config file returns. Raises UserError for whatever the file raises."""
  spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
  if spec is None:
    raise UserError(f"{says}: the name of a config file must end in .py or, as saved, .json.")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    return getattr(module, function)(*arguments)
  except Exception as error:
    raise UserError(f"{says}: {type(error).__name__}: {error}") from error


def _take(name: str, arguments: list[str]) -> tuple[str | None, list[str]]:
  """The value of a flag, written `--name=value` or `--name value`, and the other arguments."""
  value, others, remaining = None, [], iter(arguments)
  for arg in remaining:
    flag, equals, given = arg.partition("=")
    if flag in (f"-{name}", f"--{name}"):
      value = given if equals else next(remaining, None)
    else:
      others.append(arg)
  return value, others


def _clear(config: ml_collections.ConfigDict, arguments: list[str]) -> list[str]:
  """Carries out `--config.KEY=None` for optional keys; returns the arguments that are left.

  ml_collections has no word for None. What was said of KEY before it no longer counts.
  """
  left = []
  for arg in arguments:
    if arg == "None" and left and re.fullmatch(r"--?config\.[^=]+", left[-1]):
      arg = f"{left.pop()}=None"
    cleared = re.fullmatch(r"--?config\.([^=]+)=None", arg)
    if cleared and SETTINGS[cleared[1]].optional:
      group, _, name = cleared[1].rpartition(".")
      unset = config_dict.placeholder(SETTINGS[cleared[1]].kind)
      (config[group] if group else config)[name] = unset
      left = [other for other in left if f"config.{cleared[1]}" != other.lstrip("-").split("=")[0]]
    else:
      left.append(arg)
  return left


def _explain(message: str) -> str:
  """`flag --config.seed=x: invalid literal ...` in the words of the settings table."""
  refused = re.match(r"flag --config\.([^=]+)=(.*?): ", message, re.DOTALL)
  if refused and refused[1] in SETTINGS:
    return f"config.{refused[1]} = {refused[2]}, but must be {SETTINGS[refused[1]].choices}."
  return message.strip().splitlines()[-1]


def describe_settings() -> str:
  lines = ["Settings (--config.KEY=VALUE; the defaults are the config file's):"]
  for key, setting in SETTINGS.items():
    text = f"{setting.meaning} ({setting.choices})"
    lines += textwrap.wrap(text, 100, initial_indent=f"  {key:<28} ", subsequent_indent=" " * 31)
  return "\n".join(lines)
