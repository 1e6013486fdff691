"""How fast this machine measures, against limits found in the same run.

  python -m nc_jax.benchmark metrics                 the metric library: one pass, everything
  python -m nc_jax.benchmark train --config=FILE     training as a config asks for it
  python -m nc_jax.benchmark together --config=FILE  many seeds of it trained together
  python -m nc_jax.benchmark scaling --config=FILE   both on one device, two, four, ...

`python -m nc_jax.benchmark COMMAND --help` lists the options.

Exit status: 0 done, 1 the run failed, 2 the request was wrong, 130 interrupted.
"""

import argparse
import importlib
import sys

from nc_jax.errors import UserError, exit_status
from nc_jax.parser import Parser

# Each is a module of nc_jax.benchmarks with add_arguments(parser) and run(arguments).
COMMANDS = {
  "metrics": "the metric library beside this machine's limits, plain NumPy, and a peer",
  "train": "training as a config asks for it, beside this machine's limits",
  "together": "runs trained together, beside as many runs alone",
  "scaling": "training steps and moments on one device, two, four, ..., beside the ideal",
}


def main(argv: list[str]) -> int:
  return exit_status(run, argv, "the table ends here")


def run(argv: list[str]) -> int:
  arguments = parse(argv[1:])
  return arguments.run(arguments)


def parse(arguments: list[str]) -> argparse.Namespace:
  parser = Parser(
    prog="python -m nc_jax.benchmark",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
  for name, summary in COMMANDS.items():
    command = commands.add_parser(
      name,
      help=summary,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )
    if name in arguments[:1]:  # the others may need what is not installed
      module = load(name)
      command.description = module.__doc__
      module.add_arguments(command)
      command.set_defaults(run=module.run)
  known = parser.parse_with_overrides(arguments)
  if not hasattr(known, "config"):
    parser.refuse(known.overrides)
  return known


def load(name: str):
  try:
    return importlib.import_module(f"nc_jax.benchmarks.{name}")
  except ModuleNotFoundError as missing:
    raise UserError(f"{missing}; {name} needs pip install -e '.[train]'.") from missing


if __name__ == "__main__":
  sys.exit(main(sys.argv))
