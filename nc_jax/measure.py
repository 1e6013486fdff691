"""Measures neural collapse in features that any framework has written to disk.

usage: python -m nc_jax.measure FILES... [--test FILES...] [options]

  FILES             .npz files with arrays `features` [N, D] and `labels` [N], integers in [0, K),
                    and, in any one of them, `weight` [K, D] and `bias` [K] of the linear head.
                    Or .npy files called *features*.npy, with *labels*.npy and, if there is a
                    head, *weight*.npy and *bias*.npy beside them. Several files are shards of one
                    set. np.save and np.savez write files that may be larger than memory; those of
                    np.savez_compressed are read into it. Nothing is ever unpickled.
  --test FILES      a test set in the same form: adds test collapse
  --num_classes K   default: the rows of `weight`, else the largest label plus one

  --json            print JSON instead of tables; nan and inf become strings
  --figure FILE     draw cosines of the class means, spectrum and spread of the classes; FILE ends
                    in .png, .pdf or .svg. Needs matplotlib: pip install -e '.[plot]'

  --global_mean classes|samples   what is averaged to the global mean (default: classes)
  --within samples|classes        what weighs the same in Σ_W (default: samples)
  --between classes|samples       what weighs the same in Σ_B (default: classes)
  --norm_ddof N     standard deviations over C classes divide by C - N (default: 1)
  --pair_ddof N     variances over P pairs of classes divide by P - N (default: 0)

  --no_scatter      keep no [D, D] array, for very wide features: no nc1/vci, no ranks
  --chunk_rows N    examples held in memory at a time (default: 64 MiB of features)
  --float64         compute in double precision
  --help            this text

Exit status: 0 done, 1 measuring failed, 2 the request or a file was wrong, 130 interrupted.
"""

import argparse
import functools
import os
import pathlib
import sys

# As in nc_jax.main, and before JAX loads what it decomposes by, which it does when it first has to.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax

import nc_jax as nc
from nc_jax.errors import UserError, exit_status, printable
from nc_jax.exported import files, passes, table
from nc_jax.exported.progress import ProgressLine
from nc_jax.files import check_place
from nc_jax.parser import Parser

if __name__ != "__main__":
  raise ImportError(
    "nc_jax.measure is a command, python -m nc_jax.measure FILES; imported, it would hide the "
    "function of that name: import nc_jax as nc; nc.measure(moments)."
  )


def main(argv: list[str]) -> int:
  return exit_status(run, argv, "nothing was written")


def run(argv: list[str]):
  arguments = parse(argv[1:])
  if arguments.help:
    print(__doc__.strip(), flush=True)
    return
  draw = prepare_figure(arguments.figure)
  if arguments.float64:
    jax.config.update("jax_enable_x64", True)
  with ProgressLine() as line:
    train = files.read(arguments.files, line.checked)
    sets = [train]
    if arguments.test:
      sets.append(files.read(arguments.test, line.checked))
    agreed = files.agree(sets, arguments.num_classes)
    request = passes.Request(
      num_classes=agreed.num_classes,
      head=None if agreed.weight is None else nc.Head(agreed.weight, agreed.bias),
      scatter=not arguments.no_scatter,
      global_mean=arguments.global_mean,
      within=arguments.within,
      between=arguments.between,
      norm_ddof=arguments.norm_ddof,
      pair_ddof=arguments.pair_ddof,
      rows=arguments.chunk_rows,
      watch=line.watch,
    )
    request.check_ddof(len(train.classes))
    request.check_memory(train.dim)
    measured = passes.report(train, request)
    collapse = {}
    if arguments.test:
      collapse = passes.test_collapse(measured, sets[1], request)
  show = table.to_json if arguments.json else table.to_text
  print(show(table.Results(sets, request, measured.values, collapse)), flush=True)
  if draw is not None:
    draw(measured, request, table.describe(train))
    if not arguments.json:
      print(f"\nFigure: {printable(str(arguments.figure))}", flush=True)


def parse(argv: list[str]) -> argparse.Namespace:
  """The options; UserError for whatever is wrong with them."""
  parser = Parser(add_help=False, allow_abbrev=False)
  parser.add_argument("files", nargs="*")
  parser.add_argument("--test", nargs="+", action="extend", default=[])
  parser.add_argument("--num_classes", type=int)
  parser.add_argument("--json", action="store_true")
  parser.add_argument("--figure", type=pathlib.Path)
  parser.add_argument("--global_mean", choices=("classes", "samples"), default="classes")
  parser.add_argument("--within", choices=("samples", "classes"), default="samples")
  parser.add_argument("--between", choices=("classes", "samples"), default="classes")
  parser.add_argument("--norm_ddof", type=int, default=1)
  parser.add_argument("--pair_ddof", type=int, default=0)
  parser.add_argument("--no_scatter", action="store_true")
  parser.add_argument("--chunk_rows", type=int)
  parser.add_argument("--float64", action="store_true")
  parser.add_argument("--help", "-h", action="store_true")
  arguments = parser.parse_intermixed_args(argv)
  if not arguments.files and not arguments.help:
    hint = "; --test takes all that follow it, so name them first" if arguments.test else ""
    raise UserError(f"FILES with the features to measure are missing{hint}. See --help.")
  if "" in arguments.files + arguments.test:  # pathlib reads it as the folder
    raise UserError("'' is not a file.")
  for name, least in (("num_classes", 1), ("chunk_rows", 1), ("norm_ddof", 0), ("pair_ddof", 0)):
    value = getattr(arguments, name)
    if value is not None and value < least:
      raise UserError(f"--{name}={value}, but must be at least {least}.")
  return arguments


def prepare_figure(path: pathlib.Path | None):
  """The function that draws into `path`; all that could be wrong with it is found out now."""
  if path is None:
    return None
  if path.suffix.lower() not in (".png", ".pdf", ".svg"):
    raise UserError(f"--figure={path} must end in .png, .pdf or .svg.")
  check_place("figure", path)
  try:
    from nc_jax.exported import figure
  except ImportError as error:
    raise UserError(f"--figure needs {error.name}: pip install -e '.[plot]'.") from None
  return functools.partial(figure.save, path)


if __name__ == "__main__":
  sys.stdout.reconfigure(errors="replace")  # formulas have letters that not every terminal knows
  sys.exit(main(sys.argv))
