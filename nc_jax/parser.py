"""Flags, where a complaint is one line like every other."""

import argparse

from nc_jax.errors import UserError


class Parser(argparse.ArgumentParser):
  """An ArgumentParser whose complaint is one line, raised as UserError."""

  def error(self, message: str):
    raise UserError(f"{message}. See --help.")
