"""The order of things: restore, then train, observe and save until the last epoch."""

import contextlib
import pathlib

import numpy as np

from nc_jax import processes, replicates
from nc_jax.console import Console
from nc_jax.errors import RunError
from nc_jax.files import replacing
from nc_jax.training.building import Experiment
from nc_jax.training.checkpoints import Checkpoints
from nc_jax.training.models import LOGITS, PENULTIMATE
from nc_jax.training.observe import Observation
from nc_jax.training.stopping import Stopped, stop_signals
from nc_jax.training.together import Cohort
from nc_jax.writers import MetricsWriter

MANY = 8  # epochs in one call: fewer are not worth the compilation that another T takes


def train(experiment: Experiment | Cohort, workdir: pathlib.Path, console: Console):
  """Trains to the last epoch, from the latest checkpoint if there is one.

  Writes checkpoints into the workdir, and into the folder of each run examples.npz (which
  examples were used, by which labels), metrics.csv, event files and, with each observation,
  class_means.npz and, if there are such, replicates/EPOCH.npz. A run whose loss is no longer
  finite is given up: its folder then holds failed.txt, which says when. The others go on.

  Of several processes all train, observe and save, and process 0 alone writes the files.

  Raises:
    Stopped: by SIGINT or SIGTERM, after saving.
    RunError: no run is left, or a parameter is no longer finite. The last good checkpoint stays.
  """
  config, steps_per_epoch = experiment.config, experiment.steps_per_epoch
  folders = [workdir / run.folder for run in experiment.runs]
  total_steps = config.optim.total_epochs * steps_per_epoch
  checkpoints = Checkpoints(workdir, config.checkpoint.max_to_keep, place=experiment.place)
  state = checkpoints.restore_latest(like=experiment.state)
  fresh = state is None
  state = experiment.place(experiment.state) if fresh else state
  step = int(np.max(state.step))
  first, writers = processes.is_first(), []
  if first:
    for folder in folders:
      folder.mkdir(exist_ok=True)
    writers = [MetricsWriter(folder, last_step=-1 if fresh else step) for folder in folders]
  failed = {run: why for run, folder in enumerate(folders) if (why := why_failed(folder))}
  alive = lambda: [run for run in range(len(folders)) if run not in failed]
  if not alive():
    raise RunError(f"Every run has failed. {failed[0]}")

  def due():
    epoch, into_epoch = divmod(step, steps_per_epoch)
    return into_epoch == 0 and epoch in experiment.observe_epochs

  def observe():
    """Observes the runs of which there are no rows yet. Returns the signal that broke it off."""
    epoch, seen = step // steps_per_epoch, []
    unseen = lambda: [run for run in alive() if writers[run].last_step < step]
    try:
      for run, observation in experiment.observe(state, epoch, processes.from_first(unseen), pause):
        if first:
          # Before the rows, which tell that the observation is there.
          replicates.save(folders[run], epoch, observation.replicates)
          writers[run].write(step, epoch, observation.rows)
          save_class_means(observation, folders[run] / "class_means.npz")
        seen.append(_summary(observation))
    except _BrokenOff as signal:
      return signal.signum
    if seen:
      console.observed(step, *np.median(seen, axis=0))
    return None

  def pause():
    if signum := asked_to_stop():
      raise _BrokenOff(signum)

  def give_up(run, why):
    failed[run] = why
    if len(folders) > 1:  # else there is nothing that goes on without it
      note_failure(folders[run], why)

  def read(begin, sums):
    losses = experiment.losses(sums)  # [T, R]
    finite = np.isfinite(losses)
    for run in alive():
      if not finite[:, run].all():
        bad = int(np.argmin(finite[:, run]))
        give_up(
          run,
          f"The loss is {losses[bad, run]} at step {begin + bad}, "
          f"epoch {(begin + bad) // steps_per_epoch}",
        )
    if not alive():
      kept = checkpoints.steps()
      raise RunError(
        f"{failed[max(failed)]}; "
        + (f"the last good checkpoint is step {kept[-1]}." if kept else "nothing was saved yet.")
      )
    console.trained(begin + len(losses), losses[:, alive()].mean())

  def save():
    for run in experiment.broken(state):
      if run not in failed:
        epoch = step // steps_per_epoch
        give_up(run, f"A parameter is not finite after step {step}, epoch {epoch}")
    checkpoints.save(experiment.fetch(state, spoilt=list(failed)))

  def stop_if(signum):
    if signum:
      save()
      checkpoints.wait()
      raise Stopped(signum, step // steps_per_epoch, step)

  with contextlib.ExitStack() as stack:
    for closing in (*writers, checkpoints):
      stack.callback(closing.close)
    asked_to_stop = stack.enter_context(stop_signals())
    stack.enter_context(console)
    if not fresh:
      console.say(f"Going on from the checkpoint at step {step}, epoch {step // steps_per_epoch}.")
    elif first:
      for run, folder in zip(experiment.runs, folders, strict=True):
        with replacing(folder / "examples.npz", "wb") as file:
          np.savez(file, **run.dataset.record())
    # A run that was stopped while it was observed goes on with that.
    stop_if(observe() if due() else None)

    unread = None  # what the last call returned: read once the next is on its way
    for index in calls(experiment, step):
      state, sums = experiment.program(state, *experiment.batches(index))
      if unread is not None:
        read(*unread)
      unread = step, sums
      step += len(index)

      epoch, into_epoch = divmod(step, steps_per_epoch)
      last = step == total_steps
      saving = into_epoch == 0 and epoch % config.checkpoint.every_epochs == 0
      stop = asked_to_stop()
      if due() or saving or last or stop:
        read(*unread)
        unread = None
      if due() and not stop:
        stop = observe()
      stop_if(stop)
      if saving or last:
        save()
    checkpoints.wait()


class _BrokenOff(Exception):
  """An observation was, by a signal."""

  def __init__(self, signum: int):
    super().__init__(signum)
    self.signum = signum


def calls(experiment: Experiment | Cohort, from_step: int):
  """The index arrays [T, L, ...] of this process for every compiled call after `from_step`.

  A call takes a part of an epoch, or a whole one. Of very short epochs it takes as many as fill
  it, where nothing is observed or saved in between.
  """
  config, per_epoch = experiment.config, experiment.steps_per_epoch
  total, at_once = config.optim.total_epochs, max(1, config.optim.steps_per_call // per_epoch)
  busy = lambda epoch: (
    epoch in experiment.observe_epochs or epoch % config.checkpoint.every_epochs == 0
  )
  step = from_step
  while step < total * per_epoch:
    epoch, into_epoch = divmod(step, per_epoch)
    epochs = range(epoch, epoch + at_once)
    if at_once < MANY or into_epoch or epochs.stop > total or any(map(busy, epochs[1:])):
      epochs = epochs[:1]
    index = np.concatenate([experiment.epoch_index(each) for each in epochs])[into_epoch:]
    yield from np.array_split(index, -(-len(index) // config.optim.steps_per_call))
    step = epochs.stop * per_epoch


def why_failed(folder: pathlib.Path) -> str | None:
  """Why the run in this folder was given up; None if it was not."""
  path = folder / "failed.txt"
  return path.read_text().strip() if path.exists() else None


def note_failure(folder: pathlib.Path, why: str):
  with replacing(folder / "failed.txt") as file:
    file.write(f"{why}.\n")


def save_class_means(observation: Observation, path: pathlib.Path):
  """Class means [K, D] of the penultimate layer on `train` and `test`, and the head's `weight`."""
  with replacing(path, "wb") as file:
    np.savez(file, **observation.geometry)


def _summary(observation: Observation) -> list[list[float]]:
  """Of train and test: loss, error, V = trace ratio; for the console."""
  values = {row[:3]: row.value for row in observation.rows}
  return [
    [values[split, LOGITS, "loss"] for split in ("train", "test")],
    [values[split, LOGITS, "error/classifier"] for split in ("train", "test")],
    [values[split, PENULTIMATE, "nc1/trace_ratio"] for split in ("train", "test")],
  ]
