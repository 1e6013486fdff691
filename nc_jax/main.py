"""Trains a network past zero error and watches its features collapse.

usage: python -m nc_jax.main --config=FILE[:VARIANT] --workdir=DIR [--config.KEY=VALUE ...]

  --config=FILE[:VARIANT]  a config file, such as configs/digits.py, or the config.json that a
                           run left in its workdir
  --config.KEY=VALUE       another value for one setting, such as --config.optim.peak_lr=0.1
  --workdir=DIR            where results go; an interrupted run in DIR is continued
  --observe_only           measure the checkpoints in DIR again, without training; results go to
                           DIR/observed.csv. --config may be left out, observe.* may be changed
  --help                   this text

On several hosts, or as several processes of one, the same command is given to each, and --workdir
lies on a file system that all share. Process 0 alone writes and talks.
  --distributed            Cloud TPU, SLURM, Open MPI or GKE says where the others are; elsewhere
  --coordinator=HOST:PORT  where process 0 listens (a free port of its host),
  --num_processes=N        how many processes there are, and
  --process_id=I           which of them this is, from 0
All must start within 5 minutes. SIGTERM to one, or Ctrl-C, stops and saves all. If one dies, the
others end within 40 seconds with a status that is not 0, and the same commands go on from the
latest checkpoint, with another number of processes and devices too.

In the workdir:
  config.json       the resolved config            checkpoints/   the latest states (Orbax)
  metrics.csv       every number of every epoch    tensorboard/   the same, as event files
  examples.npz      which examples, which labels   *.png          figures
  class_means.npz   geometry of the last epoch     versions.json   of what made it, and devices
  verdict.txt, verdict.json                        the paper's first claim, with numbers
  replicates/       with observe.bootstrap: what other examples would have made of them

Exit status: 0 done, 1 the run failed, 2 the request was wrong; 128 + n when stopped by signal n.
"""

import contextlib
import os
import pathlib
import sys
import time

# XLA and OpenBLAS, which does the small decompositions, keep a thread per core each and wait for
# one another where the cores are busy: one observation took 0.9 s instead of 3 ms. Must be set
# before either is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

try:
  import jax

  from nc_jax import (
    compilation,
    made_with,
    processes,
    settings,
    verdict,
    virtual_devices,
    workdirs,
    writers,
  )
  from nc_jax.command_line import describe_settings, parse
  from nc_jax.errors import UserError, exit_status
except ModuleNotFoundError as missing:
  print(f"nc_jax: {missing}; training needs pip install -e '.[train,plot]'.", file=sys.stderr)
  sys.exit(2)


def main(argv: list[str]) -> int:
  said = "the same command goes on from what was saved"
  return processes.end_together(lambda: exit_status(run, argv, said))


def run(argv: list[str]) -> int:
  if any(arg in ("-h", "-help", "--help") for arg in argv[1:]):
    print(__doc__.rstrip() + "\n\n" + describe_settings())
    return 0
  workdir, config, observe_only, cluster = request = parse(argv)
  virtual_devices.give_threads(virtual_devices.asked_for())
  compilation.keep_in(config.compilation_cache)
  if cluster is not None:
    join(request)
  processes.from_first(lambda: workdirs.check(workdir, config, observe_only))
  if not observe_only and processes.from_first(lambda: workdirs.finished(workdir)):
    if processes.is_first():
      print((workdir / "verdict.txt").read_text())
      print(f"{workdir} is finished; nothing was changed.")
    return 0
  from nc_jax.console import reading
  from nc_jax.training import building, loop

  with reading(quiet=not processes.is_first()) as progress:
    experiment = building.build(config, progress)
  if observe_only:
    return observe_again(experiment, workdir)

  with contextlib.ExitStack() as stack:
    # One process holds the workdir, for all.
    processes.from_first(lambda: stack.enter_context(workdirs.opened(workdir, config)))
    processes.check_shared(workdir / "config.json")
    console = loop.Console(
      config.optim.total_epochs, experiment.steps_per_epoch, quiet=not processes.is_first()
    )
    console.say(introduce(experiment, workdir))
    if changed := processes.from_first(lambda: made_with.changes(workdir)):
      console.say(changed)
    processes.from_first(lambda: made_with.note(workdir))
    began = time.monotonic()
    try:
      loop.train(experiment, workdir, console)
    except loop.Stopped as stopped:
      console.say(str(stopped))
      return 128 + stopped.signum
    console.say(f"Trained and observed in {time.monotonic() - began:.0f} s.")
    processes.from_first(lambda: finish(workdir, console))
  return 0


def join(request):
  """Meets the other processes, all of them with the same command."""
  # Nobody of this run can hold the workdir yet. A second start must be told before it meets the
  # first one at the coordinator's address, which would end that.
  if not request.observe_only:
    workdirs.check_free(request.workdir)
  processes.initialise(request.cluster)
  processes.check_same(f"{request.workdir} {settings.to_json(request.config)}")


def introduce(experiment, workdir) -> str:
  config, devices = experiment.config, jax.devices()
  leaves = jax.tree.leaves(experiment.state.params)
  together = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
  return (
    f"{config.data.name}: {len(experiment.dataset.train)} train and "
    f"{len(experiment.dataset.test)} test examples, {experiment.dataset.num_classes} classes. "
    f"{config.model.name}: {sum(leaf.size for leaf in leaves):,} parameters. "
    f"{config.optim.total_epochs} epochs of {experiment.steps_per_epoch} steps on "
    f"{len(devices)} x {devices[0].device_kind}{together}. Results in {workdir}."
  )


def finish(workdir: pathlib.Path, console):
  """Draws the figures and gives the verdict, from what lies in the workdir."""
  try:
    from nc_jax import plots
  except ModuleNotFoundError as error:
    console.say(f"No figures: {error.name} is missing (pip install -e '.[plot]').")
  else:
    drawn = plots.draw(workdir)
    console.say("Figures: " + ", ".join(path.name for path in drawn) + ".")
  result = verdict.judge(writers.read_csv(workdir / "metrics.csv"))
  verdict.write(result, workdir)
  print(verdict.to_text(result), flush=True)


def observe_again(experiment, workdir: pathlib.Path) -> int:
  """Measures every checkpoint of a workdir into observed.csv."""
  from nc_jax.training.checkpoints import Checkpoints

  with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
    if not checkpoints.steps():
      raise UserError(f"--workdir={workdir} holds no checkpoint yet.")
    rows = []
    for step in checkpoints.steps():
      epoch = step // experiment.steps_per_epoch
      state = checkpoints.restore(step, like=experiment.state)
      ((_, observation),) = experiment.observe(state, epoch)
      rows += [(step, epoch, *row[:3], writers.to_text(row.value)) for row in observation.rows]
      if processes.is_first():
        print(f"epoch {epoch}: observed", file=sys.stderr)
  path = workdir / "observed.csv"
  if processes.is_first():
    writers.write_csv(path, rows)
    print(f"{len(rows)} numbers in {path}")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
