"""Flags, where a complaint is one line like every other."""

import argparse
import re

from nc_jax.errors import UserError


class Parser(argparse.ArgumentParser):
  """An ArgumentParser whose complaint is one line, raised as UserError."""

  def error(self, message: str):
    raise UserError(f"{message}. See --help.")

  def parse_with_overrides(self, arguments: list[str]) -> argparse.Namespace:
    """The options, and as `overrides` whatever says --config.KEY=VALUE or --config.KEY VALUE.

    These are for `command_line.override`; a command that takes no config refuses them itself.
    """
    known, rest = self.parse_known_args(arguments)
    self.refuse([arg for arg in rest if not re.match(r"--?(no)?config\.|[^-]", arg)])
    known.overrides = rest
    return known

  def refuse(self, foreign: list[str]):
    if foreign:
      self.error(f"unrecognized arguments: {' '.join(foreign)}")
