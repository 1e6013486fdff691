"""From a config to an experiment: data, network, loss and optimiser, joined and checked."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nc_jax.errors import UserError
from nc_jax.training import heads, losses, models, optim, probes
from nc_jax.training.data import Dataset, epoch_order, load
from nc_jax.training.data.augment import augment
from nc_jax.training.features import Collector
from nc_jax.training.feeds import Feed
from nc_jax.training.measurer import Measurer, Observed, Probing
from nc_jax.training.observe import Observation, Observer, common_steps
from nc_jax.training.resampling import Resampler
from nc_jax.training.steps import (
  AXIS,
  TrainState,
  init_state,
  make_apply,
  make_train,
  replicate,
)


class Run(NamedTuple):
  """One run: where below the workdir its results go, what it was asked for, and its data."""

  folder: str  # "" is the workdir itself
  config: object  # resolved
  dataset: Dataset


class Experiment(NamedTuple):
  """Everything that a config asks for, built and checked; no step was taken, no file touched.

  For `loop.train`, a `together.Cohort` is the same of many configs.
  """

  config: object
  dataset: Dataset
  state: TrainState  # untrained
  feeds: dict[str, Feed]
  program: Callable  # (state, images, labels, index) -> (state, {"loss": [T], "error": [T]})
  measurer: Measurer
  observed: Observed
  observe_epochs: tuple[int, ...]
  steps_per_epoch: int

  @property
  def runs(self) -> tuple[Run, ...]:
    return (Run("", self.config, self.dataset),)

  @property
  def observer(self) -> Observer:
    return self.measurer.observer

  def epoch_index(self, epoch: int) -> np.ndarray:
    """The examples of an epoch as this process takes them, [steps, L, B].

    One permutation of the train set, cut into whole global batches; the rest, less than a batch,
    waits for the next epoch's permutation.
    """
    batch_size, local = self.config.data.batch_size, jax.local_device_count()
    mine = slice(jax.process_index() * local, (jax.process_index() + 1) * local)
    order = epoch_order(self.config.seed, epoch, len(self.dataset.train)).astype(np.int32)
    order = order[: self.steps_per_epoch * batch_size]
    return order.reshape(self.steps_per_epoch, jax.device_count(), -1)[:, mine]

  def batches(self, index: np.ndarray) -> tuple:
    """What the program takes after the state, for an index [T, L, B]."""
    return self.feeds["train"](index)

  def place(self, state: TrainState) -> TrainState:
    """A copy of a state on the devices, which the program may overwrite."""
    return replicate(jax.tree.map(np.array, jax.device_get(state)))

  def fetch(self, state: TrainState, spoilt: Sequence[int] = ()) -> TrainState:
    """A state of the devices on the host."""
    return jax.device_get(state)

  def broken(self, state: TrainState) -> list[int]:
    """Runs to give up because their parameters are not finite: none, a save itself will refuse."""
    return []

  def losses(self, sums: dict) -> np.ndarray:
    """The loss of each step and run, [T, 1]."""
    return np.asarray(sums["loss"])[:, None]

  def observe(
    self,
    state: TrainState,
    epoch: int,
    which: Sequence[int] = (0,),
    pause: Callable[[], None] = lambda: None,
  ) -> Iterator[tuple[int, Observation]]:
    """Observes the run, if it is among those asked for. `pause` as of an `Observer`."""
    for run in which:
      yield run, self.measurer(state, epoch, self.observed, pause)


def build(config, progress: Callable[[int, int], None] | None = None) -> Experiment:
  """Builds an experiment from a resolved config.

  Args:
    config: see `settings.resolve`.
    progress: called with (done, total) examples while data are read.

  Raises UserError for what only data, network and devices together can tell.
  """
  data, dataset = config.data, load_data(config, progress)
  check_batch(config, len(dataset.train), jax.device_count())
  observe_epochs = epochs_to_observe(config.observe.epochs, config.optim.total_epochs)
  steps_per_epoch = len(dataset.train) // data.batch_size

  model, loss = build_network(config, dataset), build_loss(config, dataset)
  optimiser = build_optimiser(config, steps_per_epoch)
  apply = make_apply(model, jnp.dtype(config.model.precision or "float32"))
  state = untrained(model, optimiser, config, dataset)
  feeds = {
    name: Feed(getattr(dataset, name), is_resident(config, dataset)) for name in ("train", "test")
  }
  program = make_train(
    apply,
    loss,
    optimiser,
    feeds["train"].axis,
    augmentation(data, dataset),
    config.seed,
    config.optim.accumulate or 1,
  )
  observed = what_to_observe(config, dataset, feeds)
  measurer = build_measurer(config, dataset, model, apply, lambda _: loss, observed, state)
  return Experiment(
    config, dataset, state, feeds, program, measurer, observed, observe_epochs, steps_per_epoch
  )


def load_data(config, progress: Callable[[int, int], None] | None = None) -> Dataset:
  settings = config.data.to_dict()
  for key in ("batch_size", "device_budget_mib", "augment", "augment_padding"):
    del settings[key]
  return load(settings.pop("name"), seed=config.seed, progress=progress, **settings)


def is_resident(config, dataset: Dataset) -> bool:
  """Whether the data set is to live on every device."""
  budget = config.data.device_budget_mib
  return dataset.fits(1024 if budget is None else budget)


def check_batch(config, size: int, devices: int):
  """Raises UserError unless `size` examples make a batch, which divides over the devices."""
  batch_size, accumulate = config.data.batch_size, config.optim.accumulate or 1
  if batch_size > size:
    raise UserError(f"config.data.batch_size = {batch_size} exceeds the {size} train examples.")
  if batch_size % devices:
    raise UserError(
      f"config.data.batch_size = {batch_size} does not divide over {devices} devices."
    )
  if batch_size // devices % accumulate:
    raise UserError(
      f"config.optim.accumulate = {accumulate} does not divide the {batch_size // devices} examples"
      f" that each device takes of config.data.batch_size = {batch_size}."
    )
  if accumulate > 1 and config.loss.name in losses.BATCH_LOSSES:
    raise UserError(
      f"config.optim.accumulate = {accumulate}, but must be None: config.loss.name = "
      f"{config.loss.name!r} compares all examples of a batch with one another."
    )


def build_network(config, dataset: Dataset, axis_name: str | None = AXIS) -> models.Network:
  """Body and head. Raises UserError where the two, or the images, do not go together."""
  options = config.model.to_dict()
  dtype = options.pop("precision") or "float32"
  shape = dataset.train.images.shape[1:]
  body = models.build(**options, dtype=dtype, axis_name=axis_name, image_shape=shape)
  options = config.head.to_dict()
  head = heads.build(
    options.pop("name") or "linear",
    num_classes=dataset.num_classes,
    detached=config.loss.name in losses.FEATURE_LOSSES,
    **options,
  )
  return models.Network(body, head, config.observe.pooling or "average")


def untrained(model: models.Network, optimiser, config, dataset: Dataset) -> TrainState:
  images = dataset.train.images
  return init_state(model, optimiser, images, config.seed, dataset.scale, dataset.shift)


def build_loss(
  config, dataset: Dataset, axis_name: str | None = AXIS, varied: dict | None = None
) -> losses.Loss:
  """The loss. `varied` says otherwise for some keys, as {"loss.gamma": number or tracer}."""
  counts = np.bincount(dataset.train.labels, minlength=dataset.num_classes)
  options = config.loss.to_dict() | _group("loss", varied)
  return losses.build(**options, class_counts=counts, axis_name=axis_name)


def build_optimiser(
  config, steps_per_epoch: int, varied: dict | None = None
) -> optax.GradientTransformation:
  """The optimiser with its schedule. `varied` says otherwise for some keys, as in `build_loss`."""
  options = config.optim.to_dict() | _group("optim", varied)
  schedule = optim.build_schedule(
    options["schedule"] or "step",
    peak=options["peak_lr"],
    total_steps=options["total_epochs"] * steps_per_epoch,
    warmup_steps=round((options["warmup_epochs"] or 0) * steps_per_epoch),
    decay_at=options["decay_at"],
    decay_factor=options["decay_factor"],
  )
  return optim.build(
    options["name"],
    schedule,
    weight_decay=options["weight_decay"],
    momentum=options["momentum"],
    nesterov=options["nesterov"],
    rho=options["rho"],
  )


def _group(name: str, varied: dict | None) -> dict:
  """The entries of a group, {"loss.gamma": x} as {"gamma": x}."""
  return {
    key.partition(".")[2]: value
    for key, value in (varied or {}).items()
    if key.partition(".")[0] == name
  }


def what_to_observe(config, dataset: Dataset, feeds: dict[str, Feed]) -> Observed:
  """The splits to measure, from the feeds of `train` and `test`, and what probes are to learn."""
  splits = dict(feeds)
  if dataset.train.labels is not dataset.train.clean:
    splits["train_clean"] = feeds["train"].relabelled(dataset.train.clean)
  target = config.probe.target
  if target is None:
    return Observed(splits)
  if target == "fine":
    pair = tuple(feeds[name].relabelled(getattr(dataset, name).fine) for name in feeds)
    labels = (x for split in (dataset.train, dataset.test) for x in (split.clean, split.fine))
    return Observed(splits, pair, probes.ceiling(*labels))
  held_out = _probed_set(config, dataset)
  pair = tuple(feeds[name].of(getattr(held_out, name)) for name in feeds)
  return Observed(splits, pair)


def _probed_set(config, dataset: Dataset) -> Dataset:
  if config.probe.target == "fine":
    return dataset
  if dataset.held_out is None:
    raise UserError("config.probe.target = 'held_out', but config.data.held_out holds no class.")
  held_out = dataset.held_out
  for name in ("train", "test"):
    sizes = np.bincount(getattr(held_out, name).labels, minlength=held_out.num_classes)
    if not sizes.all():
      raise UserError(
        f"config.probe.target = 'held_out', but class {held_out.class_names[sizes.argmin()]!r} of "
        f"config.data.held_out has no {name} example."
      )
  return held_out


def build_measurer(
  config,
  dataset: Dataset,
  model: models.Network,
  apply: Callable,
  loss_of: Callable,
  observed: Observed,
  state: TrainState,
  devices: Sequence | None = None,
) -> Measurer:
  """What observes a state of this config; `loss_of`: constants -> loss."""
  observe, probe = config.observe, config.probe
  observer = Observer(
    apply,
    model.classifier,
    loss_of,
    observed.splits,
    state,
    dataset.num_classes,
    observe.batch_size,
    observe.layers,
    observe.max_scatter_dim,
    observe.max_rank_dim,
    devices,
  )
  probing = None
  if probe.target is not None:
    default = lambda value, otherwise: otherwise if value is None else value
    epochs = epochs_to_observe(
      default(probe.epochs, observe.epochs), config.optim.total_epochs, "probe"
    )
    unseen = set(epochs) - set(epochs_to_observe(observe.epochs, config.optim.total_epochs))
    if unseen:
      raise UserError(f"config.probe.epochs holds {min(unseen)}, which is not observed.")
    probing = Probing(
      probe.target,
      len(_probed_set(config, dataset).fine_names),
      epochs,
      default(probe.ridge, (1e-3,)),
      default(probe.logistic, (1e-3,)),
      default(probe.knn, (5,)),
      default(probe.every_layer, probes.KINDS),
    )
  collector = Collector(
    apply,
    observer.layers,
    observe.batch_size,
    observed.splits["train"].axis,
    common_steps(observed.splits, observe.batch_size, devices or jax.local_devices()),
    devices,
  )
  resampler = None
  if observe.bootstrap is not None:
    resampler = Resampler(
      observer,
      collector,
      model.classifier,
      dataset.num_classes,
      observe.bootstrap,
      bool(observe.bootstrap_nc1),
      bool(observe.bootstrap_ranks),
    )
  return Measurer(observer, collector, probing, resampler, config.optim.total_epochs)


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


def epochs_to_observe(
  epochs: tuple[int, ...] | None, total: int, group: str = "observe"
) -> tuple[int, ...]:
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
    raise UserError(
      f"config.{group}.epochs holds {epochs[-1]}, but training ends at {total}: change it too, or "
      f"give --config.{group}.epochs=None."
    )
  return tuple(sorted({0, *epochs, total}))
