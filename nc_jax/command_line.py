"""The command line: flags and a config file in, a checked request out."""

import pathlib
import re
import textwrap
from typing import NamedTuple

from absl import flags
from ml_collections import config_flags

from nc_jax import settings
from nc_jax.errors import UserError


class Request(NamedTuple):
  """A command line, read and checked as far as it can be without touching a device."""

  workdir: pathlib.Path
  config: object  # resolved
  observe_only: bool


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
  if not source:
    raise UserError("--config=FILE is missing, such as --config=configs/digits.py. See --help.")
  path = source if pathlib.Path(source).exists() else source.partition(":")[0]
  if not pathlib.Path(path).is_file():
    raise UserError(f"--config={source}: there is no file {path}.")
  for arg in rest:
    if override := re.match(r"--?(?:no)?config\.([^=]+)", arg):
      settings.check_key(override[1])

  values = flags.FlagValues()
  flags.DEFINE_string("workdir", None, "", flag_values=values)
  flags.DEFINE_bool("observe_only", False, "", flag_values=values)
  options = {"flag_values": values, "lock_config": True}
  if path.endswith(".json"):
    saved = settings.from_json(path)
    argv = [argv[0], *rest]
    holder = config_flags.DEFINE_config_dict("config", saved, sys_argv=argv, **options)
  else:
    argv = [argv[0], f"--config={source}", *rest]  # overrides must come after the file
    holder = config_flags.DEFINE_config_file("config", sys_argv=argv, **options)
  try:
    extra = values(argv)[1:]
    config = holder.value
  except flags.IllegalFlagValueError as error:
    raise UserError(_explain(str(error))) from error
  except flags.Error as error:
    raise UserError(str(error)) from error
  except Exception as error:  # whatever the config file raises
    raise UserError(f"--config={source}: {type(error).__name__}: {error}") from error
  if extra:
    raise UserError(f"{extra[0]!r} is not understood; settings are written --config.KEY=VALUE.")
  return Request(pathlib.Path(workdir), settings.resolve(config), values.observe_only)


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


def _explain(message: str) -> str:
  """`flag --config.seed=x: invalid literal ...` in the words of the settings table."""
  refused = re.match(r"flag --config\.([^=]+)=(.*?): ", message, re.DOTALL)
  if refused and refused[1] in settings.SETTINGS:
    return (
      f"config.{refused[1]} = {refused[2]}, but must be {settings.SETTINGS[refused[1]].allowed}."
    )
  # An error of the config file comes with its traceback; the last line says what it was.
  return f"{message.split(':')[0]}: {message.strip().splitlines()[-1]}"


def describe_settings() -> str:
  lines = ["Settings (--config.KEY=VALUE; the defaults are the config file's):"]
  for key, setting in settings.SETTINGS.items():
    text = f"{setting.meaning} ({setting.allowed}{' or None' if setting.optional else ''})"
    lines += textwrap.wrap(text, 100, initial_indent=f"  {key:<28} ", subsequent_indent=" " * 31)
  return "\n".join(lines)
