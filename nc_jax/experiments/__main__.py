"""The paper as four experiments with verdicts.

  python -m nc_jax.experiments e1    train against test collapse along training
  python -m nc_jax.experiments e2    test collapse against the size of the train set
  python -m nc_jax.experiments e3a   transfer from coarse to fine labels
  python -m nc_jax.experiments e3b   transfer to novel classes
  python -m nc_jax.experiments e4    collapse cascading through the layers
  python -m nc_jax.experiments all   all of them

trains what an experiment needs, several seeds of it together, and writes into --workdir, under the
experiment's name, results.csv, its table, figures and verdict.json; and report.html, which tells of
all experiments there. An interrupted command goes on where it was when it is given again.
`--config.KEY=VALUE` changes a setting of every cell; python -m nc_jax.main --help lists them.

Hui, Belkin & Nakkiran 2022, "Limitations of Neural Collapse for Understanding Generalization in
Deep Learning", arXiv 2202.08384.

Exit status: 0 done, whatever the verdict; 1 a run failed; 2 the request was wrong; 128 + n when
stopped by signal n.
"""

import argparse
import os
import pathlib
import shlex
import sys

# As in nc_jax.main, and before JAX is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

try:
  from nc_jax import virtual_devices

  virtual_devices.one_per_core()
  from nc_jax import workdirs
  from nc_jax.console import say
  from nc_jax.errors import UserError, exit_status
  from nc_jax.experiments import page, study
  from nc_jax.parser import Parser
  from nc_jax.training import loop
except ModuleNotFoundError as missing:
  print(f"nc_jax: {missing}; experiments need pip install -e '.[train,plot]'.", file=sys.stderr)
  sys.exit(2)


def main(argv: list[str]) -> int:
  return exit_status(run, argv, "the same command goes on from what was saved")


def run(argv: list[str]) -> int:
  arguments = parse(argv[1:])
  wanted = study.EXPERIMENTS if arguments.experiment == "all" else (arguments.experiment,)
  wanted = [
    study.prepare(
      name,
      arguments.workdir / name,
      arguments.configs,
      arguments.scale,
      range(arguments.seeds),
      arguments.cells,
      arguments.overrides,
    )
    for name in wanted
    if arguments.experiment != "all" or has_scale(name, arguments)
  ]
  sections = {}
  with workdirs.held(arguments.workdir):
    for each in wanted:
      each.folder.mkdir(exist_ok=True)
      cells = "1 cell" if len(each.cells) == 1 else f"{len(each.cells)} cells"
      say(f"{each.name}: {cells}, {len(each.jobs)} runs. Results in {each.folder}.")
      try:
        study.train(each, arguments.together, say)
      except loop.Stopped as stopped:
        say(str(stopped))
        return 128 + stopped.signum
      sections[each.name] = study.conclude(each)
    command = shlex.join(["python", "-m", "nc_jax.experiments", *argv[1:]])
    told = study.beside(wanted, arguments.workdir, arguments.configs, say)
    others = {each.name: study.conclude(each) for each in told if each.name not in sections}
    page.write(arguments.workdir, told, [(sections | others)[each.name] for each in told], command)
  for section in sections.values():
    print(page.to_text(section))
  say(f"Report: {arguments.workdir / 'report.html'}")
  return 0


def has_scale(name: str, arguments: argparse.Namespace) -> bool:
  return arguments.scale in study.scales(name, arguments.configs)


def parse(arguments: list[str]) -> argparse.Namespace:
  parser = Parser(
    prog="python -m nc_jax.experiments",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("experiment", choices=(*study.EXPERIMENTS, "all"))
  parser.add_argument(
    "--scale",
    choices=study.SCALES,
    default="standin",
    help="standin: digits, minutes on two cores (default); narrow: MNIST and CIFAR-10 with small "
    "networks; paper: as published, for accelerators",
  )
  parser.add_argument("--workdir", type=pathlib.Path, required=True, help="where results go")
  parser.add_argument("--seeds", type=int, default=4, help="of each cell: 0, 1, ... (default 4)")
  parser.add_argument(
    "--cells", action="append", default=[], metavar="NAME", help="only cells whose names begin so"
  )
  parser.add_argument(
    "--together", type=int, default=16, metavar="N", help="most runs trained at once (default 16)"
  )
  parser.add_argument(
    "--configs", type=pathlib.Path, default=pathlib.Path("configs"), metavar="DIR",
    help="the folder of e1.py, ... (default: configs)",
  )  # fmt: skip
  known = parser.parse_with_overrides(arguments)
  for flag, least in (("seeds", 1), ("together", 1)):
    if getattr(known, flag) < least:
      raise UserError(f"--{flag}={getattr(known, flag)}: must be at least {least}.")
  return known


if __name__ == "__main__":
  sys.exit(main(sys.argv))
