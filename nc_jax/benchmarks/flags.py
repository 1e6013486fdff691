"""The flags that benchmarks share."""

import argparse
import importlib.util
import pathlib

from nc_jax.errors import UserError
from nc_jax.files import check_place


def add_arguments(parser: argparse.ArgumentParser, devices: bool = True):
  """`devices`: whether their number is for the user to say."""
  parser.add_argument("--repeats", type=int, default=5, help="samples per call (default 5)")
  if devices:
    parser.add_argument("--devices", type=int, help="use so many devices (default: all there are)")
  parser.add_argument("--csv", type=pathlib.Path, metavar="FILE", help="write the rows as CSV")


def check(arguments: argparse.Namespace):
  """Refuses now what would fail after minutes of measuring."""
  for flag in ("repeats", "devices"):
    value = getattr(arguments, flag, None)
    if value is not None and value < 1:
      raise UserError(f"--{flag}={value}: must be at least 1.")
  if arguments.csv:
    check_place("csv", arguments.csv)
    chart = getattr(arguments, "chart", None)
    if chart and chart.resolve() == arguments.csv.resolve():
      raise UserError(f"--csv={arguments.csv} and --chart={chart} are the same file.")


def check_chart(path: pathlib.Path | None):
  """The same of --chart."""
  if path is None:
    return
  check_place("chart", path)
  if path.suffix.lower() not in (".png", ".svg", ".pdf"):
    raise UserError(f"--chart={path}: must end in .png, .svg or .pdf.")
  if importlib.util.find_spec("matplotlib") is None:
    raise UserError("--chart needs matplotlib (pip install -e '.[plot]').")
