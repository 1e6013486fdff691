"""How fast this machine measures, against limits found in the same run.

  python -m nc_jax.benchmark metrics     the metric library: one pass, finalisation, everything

`python -m nc_jax.benchmark metrics --help` lists the options.

Exit status: 0 done, 1 the run failed, 2 the request was wrong, 130 interrupted.
"""

import argparse
import importlib
import sys

from nc_jax.errors import RunError, UserError

# Each is a module of nc_jax.benchmarks with SUMMARY, add_arguments(parser) and run(arguments).
COMMANDS = ("metrics",)


class Parser(argparse.ArgumentParser):
  """An ArgumentParser whose complaint is one line, raised as UserError."""

  def error(self, message: str):
    raise UserError(f"{message}. See {self.prog} --help.")


def main(argv: list[str]) -> int:
  try:
    arguments = parse(argv[1:])
    return arguments.run(arguments)
  except UserError as error:
    print(f"nc_jax: {error}", file=sys.stderr)
    return 2
  except (RunError, OSError) as error:
    print(f"nc_jax: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print("nc_jax: Interrupted; the table ends here.", file=sys.stderr)
    return 130


def parse(arguments: list[str]) -> argparse.Namespace:
  parser = Parser(
    prog="python -m nc_jax.benchmark",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
  for name in COMMANDS:
    module = importlib.import_module(f"nc_jax.benchmarks.{name}")
    command = commands.add_parser(
      name,
      help=module.SUMMARY,
      description=module.__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )
    module.add_arguments(command)
    command.set_defaults(run=module.run)
  return parser.parse_args(arguments)


if __name__ == "__main__":
  sys.exit(main(sys.argv))
