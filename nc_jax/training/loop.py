"""The order of things: build, restore, then train, observe and save until the last epoch."""

import contextlib
import functools
import math
import pathlib
import signal
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nc_jax.console import Console
from nc_jax.errors import RunError, UserError
from nc_jax.files import replacing
from nc_jax.training import heads, losses, models, optim
from nc_jax.training.checkpoints import Checkpoints
from nc_jax.training.data import Dataset, epoch_order, load
from nc_jax.training.data.augment import augment
from nc_jax.training.feeds import Feed
from nc_jax.training.models import LOGITS, PENULTIMATE
from nc_jax.training.observe import Observation, Observer
from nc_jax.training.steps import AXIS, TrainState, init_state, make_apply, make_train
from nc_jax.writers import MetricsWriter


class Experiment(NamedTuple):
  """Everything that a config asks for, built and checked; no step was taken, no file touched."""

  config: object
  dataset: Dataset
  state: TrainState  # untrained
  feeds: dict[str, Feed]
  program: Callable  # (state, images, labels, index) -> (state, {"loss": [T], "error": [T]})
  observer: Observer
  observe_epochs: tuple[int, ...]
  steps_per_epoch: int


class Stopped(Exception):
  """The run was asked to stop; its state is saved and the same command continues it."""

  def __init__(self, signum: int, epoch: int, step: int):
    self.signum = signum
    super().__init__(
      f"Stopped by {signal.Signals(signum).name} in epoch {epoch} (step {step}) and saved; "
      "the same command continues."
    )


def build(config, progress: Callable[[int, int], None] | None = None) -> Experiment:
  """Builds an experiment from a resolved config.

  Args:
    config: see `settings.resolve`.
    progress: called with (done, total) examples while data are read.

  Raises UserError for what only data, network and devices together can tell.
  """
  data, observe = config.data, config.observe
  settings = data.to_dict()
  for key in ("batch_size", "device_budget_mib", "augment", "augment_padding"):
    del settings[key]
  dataset = load(settings.pop("name"), seed=config.seed, progress=progress, **settings)
  size, devices = len(dataset.train), jax.device_count()
  if data.batch_size > size:
    raise UserError(
      f"config.data.batch_size = {data.batch_size} exceeds the {size} train examples."
    )
  if data.batch_size % devices:
    raise UserError(
      f"config.data.batch_size = {data.batch_size} does not divide over {devices} devices."
    )
  observe_epochs = epochs_to_observe(observe.epochs, config.optim.total_epochs)
  steps_per_epoch = size // data.batch_size

  model, loss = build_network(config, dataset), build_loss(config, dataset)
  optimiser = build_optimiser(config.optim, steps_per_epoch)
  dtype = jnp.dtype(config.model.precision or "float32")
  apply = make_apply(model, dataset.scale, dataset.shift, dtype)
  state = init_state(model, optimiser, dataset.train.images, config.seed)
  resident = dataset.fits(1024 if data.device_budget_mib is None else data.device_budget_mib)
  feeds = {name: Feed(getattr(dataset, name), resident) for name in ("train", "test")}
  program = make_train(
    apply, loss, optimiser, feeds["train"].axis, augmentation(data, dataset), seed=config.seed
  )
  observed = dict(feeds)
  if dataset.train.labels is not dataset.train.clean:
    observed["train_clean"] = feeds["train"].relabelled(dataset.train.clean)
  observer = Observer(
    apply,
    model.classifier,
    loss,
    observed,
    state,
    dataset.num_classes,
    observe.batch_size,
    observe.layers,
    observe.max_scatter_dim,
    observe.max_rank_dim,
  )
  return Experiment(
    config, dataset, state, feeds, program, observer, observe_epochs, steps_per_epoch
  )


def build_network(config, dataset: Dataset) -> models.Network:
  """Body and head. Raises UserError where the two, or the images, do not go together."""
  options = config.model.to_dict()
  dtype = options.pop("precision") or "float32"
  shape = dataset.train.images.shape[1:]
  body = models.build(**options, dtype=dtype, axis_name=AXIS, image_shape=shape)
  options = config.head.to_dict()
  head = heads.build(
    options.pop("name") or "linear",
    num_classes=dataset.num_classes,
    detached=config.loss.name in losses.FEATURE_LOSSES,
    **options,
  )
  return models.Network(body, head, config.observe.pooling or "average")


def build_loss(config, dataset: Dataset) -> losses.Loss:
  counts = np.bincount(dataset.train.labels, minlength=dataset.num_classes)
  return losses.build(**config.loss.to_dict(), class_counts=counts, axis_name=AXIS)


def build_optimiser(settings, steps_per_epoch: int) -> optax.GradientTransformation:
  """The optimiser with its schedule, from config.optim."""
  schedule = optim.build_schedule(
    settings.schedule or "step",
    peak=settings.peak_lr,
    total_steps=settings.total_epochs * steps_per_epoch,
    warmup_steps=round((settings.warmup_epochs or 0) * steps_per_epoch),
    decay_at=settings.decay_at,
    decay_factor=settings.decay_factor,
  )
  return optim.build(
    settings.name,
    schedule,
    weight_decay=settings.weight_decay,
    momentum=settings.momentum,
    nesterov=settings.nesterov,
    rho=settings.rho,
  )


def augmentation(settings, dataset: Dataset) -> Callable | None:
  """The augmentation that config.data asks for: (images, keys) -> images, or None."""
  if settings.augment:
    height, width = dataset.train.images.shape[1:3]
    if min(height, width) < 5:
      raise UserError(
        f"config.data.augment = True, but crops need images of at least 5x5; these are "
        f"{height}x{width}."
      )
    return functools.partial(augment, padding=settings.augment_padding or "reflect")
  if settings.augment_padding is not None:
    raise UserError(
      f"config.data.augment_padding = {settings.augment_padding!r}, but config.data.augment is off."
    )
  return None


def epochs_to_observe(epochs: tuple[int, ...] | None, total: int) -> tuple[int, ...]:
  """The observed epochs, 0 and `total` always among them.

  None stands for the field's grid: 1 to 20 each, then about 1.1 times the one before.
  Raises UserError for an epoch beyond the last.
  """
  if epochs is None:
    epochs = tuple(range(1, min(total, 20) + 1))
    if total > 20:
      growth = np.geomspace(20, total, 1 + math.ceil(math.log(total / 20, 1.1)))
      epochs += tuple(round(epoch) for epoch in growth)
  elif epochs and epochs[-1] > total:
    raise UserError(f"config.observe.epochs holds {epochs[-1]}, but training ends at {total}.")
  return tuple(sorted({0, *epochs, total}))


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
