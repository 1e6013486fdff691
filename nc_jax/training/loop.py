"""The order of things: restore, then train, observe and save until the last epoch."""

import contextlib
import pathlib
import signal

import jax
import numpy as np

from nc_jax.console import Console
from nc_jax.errors import RunError
from nc_jax.files import replacing
from nc_jax.training.building import Experiment
from nc_jax.training.checkpoints import Checkpoints
from nc_jax.training.data import epoch_order
from nc_jax.training.models import LOGITS, PENULTIMATE
from nc_jax.training.observe import Observation
from nc_jax.writers import MetricsWriter


class Stopped(Exception):
  """The run was asked to stop; its state is saved and the same command continues it."""

  def __init__(self, signum: int, epoch: int, step: int):
    self.signum = signum
    super().__init__(
      f"Stopped by {signal.Signals(signum).name} in epoch {epoch} (step {step}) and saved; "
      "the same command continues."
    )


def train(experiment: Experiment, workdir: pathlib.Path, console: Console):
  """Trains to the last epoch, from the latest checkpoint if there is one.

  Writes examples.npz (which examples were used, by which labels), metrics.csv, event files,
  checkpoints and, with each observation, class_means.npz.

  Raises:
    Stopped: by SIGINT or SIGTERM, after saving.
    RunError: the loss or a parameter is no longer finite. The last good checkpoint stays.
  """
  config, steps_per_epoch = experiment.config, experiment.steps_per_epoch
  total_steps = config.optim.total_epochs * steps_per_epoch
  checkpoints = Checkpoints(workdir, config.checkpoint.max_to_keep)
  state = checkpoints.restore_latest(like=experiment.state)
  fresh = state is None
  state = experiment.state if fresh else state
  step = int(state.step)
  writer = MetricsWriter(workdir, last_step=-1 if fresh else step)

  def observe():
    observation = experiment.observer(state)
    writer.write(step, step // steps_per_epoch, observation.rows)
    save_class_means(observation, workdir / "class_means.npz")
    console.observed(step, *_summary(observation))

  def read(begin, sums):
    losses = np.asarray(sums["loss"])
    if not np.isfinite(losses).all():
      bad = int(np.argmin(np.isfinite(losses)))
      kept = checkpoints.steps()
      raise RunError(
        f"The loss is {losses[bad]} at step {begin + bad}, epoch {begin // steps_per_epoch}; "
        + (f"the last good checkpoint is step {kept[-1]}." if kept else "nothing was saved yet.")
      )
    console.trained(begin + len(losses), losses.mean())

  with (
    contextlib.closing(writer),
    contextlib.closing(checkpoints),
    stop_signals() as stop,
    console,
  ):
    if fresh:
      with replacing(workdir / "examples.npz", "wb") as file:
        np.savez(file, **experiment.dataset.record())
      observe()
    else:
      console.say(f"Going on from the checkpoint at step {step}, epoch {step // steps_per_epoch}.")

    unread = None  # what the last call returned: read once the next is on its way
    for index in calls(experiment, step):
      state, sums = experiment.program(state, *experiment.feeds["train"](index))
      if unread is not None:
        read(*unread)
      unread = step, sums
      step += len(index)

      epoch, into_epoch = divmod(step, steps_per_epoch)
      last = step == total_steps
      due = into_epoch == 0 and epoch in experiment.observe_epochs
      save = into_epoch == 0 and epoch % config.checkpoint.every_epochs == 0
      if due or save or last or stop:
        read(*unread)
        unread = None
      if due:
        observe()
      if save or last or stop:
        checkpoints.save(state)
      if stop and not last:
        checkpoints.wait()
        raise Stopped(stop[0], epoch, step)
    checkpoints.wait()


def calls(experiment: Experiment, from_step: int):
  """The index arrays [T, L, B] of this process for every compiled call after `from_step`.

  An epoch is one permutation of the train set, cut into whole global batches (the rest, less
  than a batch, waits for the next epoch's permutation), and then into equal calls.
  """
  config = experiment.config
  batch_size, per_epoch = config.data.batch_size, experiment.steps_per_epoch
  local = jax.local_device_count()
  mine = slice(jax.process_index() * local, (jax.process_index() + 1) * local)
  for epoch in range(from_step // per_epoch, config.optim.total_epochs):
    order = epoch_order(config.seed, epoch, len(experiment.dataset.train)).astype(np.int32)
    index = order[: per_epoch * batch_size].reshape(per_epoch, jax.device_count(), -1)[:, mine]
    if epoch == from_step // per_epoch:
      index = index[from_step % per_epoch :]
    yield from np.array_split(index, -(-len(index) // config.optim.steps_per_call))


def save_class_means(observation: Observation, path: pathlib.Path):
  """Class means [K, D] of the penultimate layer on `train` and `test`, and the head's `weight`."""
  with replacing(path, "wb") as file:
    np.savez(file, **observation.geometry)


def _summary(observation: Observation):
  """Train loss, (train, test) errors and (train, test) trace ratios, for the console."""
  values = {row[:3]: row.value for row in observation.rows}
  both = lambda layer, key: tuple(values[split, layer, key] for split in ("train", "test"))
  errors = both(LOGITS, "error/classifier")
  return values["train", LOGITS, "loss"], errors, both(PENULTIMATE, "nc1/trace_ratio")


@contextlib.contextmanager
def stop_signals():
  """Yields a list that SIGINT or SIGTERM fills. A second signal acts as if this were not here."""
  received, before = [], {}

  def note(signum, _):
    received.append(signum)
    for each, handler in before.items():
      signal.signal(each, handler)

  for each in (signal.SIGINT, signal.SIGTERM):
    before[each] = signal.signal(each, note)
  try:
    yield received
  finally:
    for each, handler in before.items():
      signal.signal(each, handler)
