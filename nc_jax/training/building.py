"""From a config to an experiment: data, network, loss and optimiser, joined and checked."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nc_jax.errors import UserError
from nc_jax.training import heads, losses, models, optim
from nc_jax.training.data import Dataset, load
from nc_jax.training.data.augment import augment
from nc_jax.training.feeds import Feed
from nc_jax.training.observe import Observer
from nc_jax.training.steps import AXIS, TrainState, init_state, make_apply, make_train


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
