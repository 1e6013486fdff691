"""A choice by name: a builder from a table, called with just the options that it takes."""

import inspect
from collections.abc import Callable

from nc_jax.errors import UserError


def choose(group: str, table: dict[str, Callable], name: str, options: dict, **given):
  """`table[name]`, called with the `options` that are set and what it takes of `given`.

  `options` are the keys of `config.{group}`; None leaves one to the builder's own default.
  `given` is what the program knows by itself, such as the number of classes.

  Raises UserError for an option that is set although the builder does not take it.
  """
  takes = inspect.signature(table[name]).parameters
  chosen = {option: value for option, value in options.items() if value is not None}
  for option, value in chosen.items():
    if option not in takes:
      own = ", ".join(other for other in options if other in takes) or "none"
      raise UserError(
        f"config.{group}.{option} = {value!r}, but {name} has no such option (it has: {own})."
      )
  return table[name](**chosen, **{key: value for key, value in given.items() if key in takes})
