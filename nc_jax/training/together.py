"""Runs of one shape, trained together by one compiled program.

The runs are spread over the devices, and on each device `vmap` takes one step of all of its runs
at once; no device waits for another. Each run is observed on one device too. What differs between
the runs (the seed, the learning rate, the input's scale and shift, ...) is data: it lies in the
state, as its `constants`.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nc_jax.errors import UserError
from nc_jax.settings import flatten
from nc_jax.training import building
from nc_jax.training.building import Run
from nc_jax.training.data import Dataset, Split, epoch_order
from nc_jax.training.feeds import Feed
from nc_jax.training.losses import FREQUENCY_LOSSES
from nc_jax.training.measurer import Measurer, Observed
from nc_jax.training.observe import Observation
from nc_jax.training.steps import AXIS, TrainState, make_apply, make_step, replicate

# Settings by which runs trained together may differ, besides the seed.
VARIED = (
  "optim.peak_lr",
  "optim.weight_decay",
  "optim.rho",
  "loss.smoothing",
  "loss.gamma",
  "loss.tau",
  "loss.k",
  "loss.M",
  "loss.temperature",
)


class Apart(UserError):
  """Runs of one config shape cannot be trained together after all: their data differ too much."""


def shape_of(config) -> tuple:
  """Equal for configs whose runs can be trained together."""
  flat = flatten(config)
  del flat["seed"]
  return tuple((key, value is None if key in VARIED else value) for key, value in flat.items())


class Cohort(NamedTuple):
  """Runs that are trained together; for `loop.train`, what an `Experiment` of one run is.

  The state has a leading axis of runs: [R, ...] on the host, and [L, R / L, ...] on L devices,
  where the last run fills up what R leaves of the last device.
  """

  runs: tuple[Run, ...]
  state: TrainState  # untrained, [R, ...], on the host
  feed: Feed  # the train sets, one after another
  first: tuple[int, ...]  # where in it each run's begins
  program: Callable  # see `_make_program`
  measurers: tuple[Measurer, ...]  # one for each run at once; on a CPU they are the same
  observed: tuple[Observed, ...]  # of each run, on the device of measurers[run % len(measurers)]
  devices: tuple  # over which the runs are spread
  observe_epochs: tuple[int, ...]
  steps_per_epoch: int

  @property
  def config(self):
    """Of the first run: what is no number of VARIED and no seed is that of all."""
    return self.runs[0].config

  def epoch_index(self, epoch: int) -> np.ndarray:
    """The examples of an epoch, [steps, L, R / L, B]."""
    taken = self.steps_per_epoch * self.config.data.batch_size
    orders = [
      first + epoch_order(run.config.seed, epoch, len(run.dataset.train))[:taken]
      for first, run in zip(self.first, self.runs, strict=True)
    ]
    orders += orders[-1:] * (-len(orders) % len(self.devices))
    index = np.stack(orders).reshape(len(orders), self.steps_per_epoch, -1)  # [R, steps, B]
    return np.moveaxis(index, 0, 1).reshape(
      self.steps_per_epoch, len(self.devices), -1, self.config.data.batch_size
    )

  def batches(self, index: np.ndarray) -> tuple:
    return self.feed(index)

  def place(self, state: TrainState) -> TrainState:
    """A host's state [R, ...] on the devices."""

    def spread(x):
      x = np.asarray(x)
      x = np.concatenate([x, np.repeat(x[-1:], -len(x) % len(self.devices), axis=0)])
      return x.reshape(len(self.devices), -1, *x.shape[1:])

    state = state.replace(step=np.broadcast_to(state.step, len(self.runs)))
    mesh = Mesh(np.array(self.devices), (AXIS,))
    return jax.device_put(jax.tree.map(spread, state), NamedSharding(mesh, PartitionSpec(AXIS)))

  def fetch(self, state: TrainState, spoilt: Sequence[int] = ()) -> TrainState:
    """A state of the devices on the host, [R, ...]; that of spoilt runs is zero."""
    state = jax.tree.map(self._gather, jax.device_get(state))
    for run in spoilt:
      for leaf in jax.tree.leaves(state):
        leaf[run] = 0
    return state.replace(step=state.step.max())

  def broken(self, state: TrainState) -> list[int]:
    """Runs whose state is not finite: a finite loss may be followed by a step that overflows."""
    leaves = [self._gather(np.asarray(leaf)) for leaf in jax.tree.leaves(state)]
    finite = [np.isfinite(leaf.reshape(len(leaf), -1)).all(axis=1) for leaf in leaves]
    return np.flatnonzero(~np.all(finite, axis=0)).tolist()

  def losses(self, sums: dict) -> np.ndarray:
    """The loss of each step and run, [T, R]."""
    return self._gather(np.moveaxis(np.asarray(sums["loss"]), 1, 2)).T

  def observe(
    self,
    state: TrainState,
    epoch: int,
    which: Sequence[int],
    pause: Callable[[], None] = lambda: None,
  ) -> Iterator[tuple[int, Observation]]:
    """Observes some of the runs, as many at once as there are measurers.

    `pause` as of an `Observer`, from several threads.
    """
    kept = {"params": state.params, "batch_stats": state.batch_stats, "constants": state.constants}
    kept = jax.tree.map(self._gather, jax.device_get(kept))

    def of(run: int) -> Observation:
      measurer = self.measurers[run % len(self.measurers)]
      own = jax.tree.map(lambda x: x[run], kept)
      own = replicate(TrainState(step=np.int32(0), opt_state=(), **own), measurer.devices)
      return measurer(own, epoch, self.observed[run], pause)

    if len(self.measurers) == 1:
      yield from ((run, of(run)) for run in which)
      return
    with ThreadPoolExecutor(len(self.measurers)) as pool:
      yield from zip(which, pool.map(of, which), strict=True)

  def _gather(self, x: np.ndarray) -> np.ndarray:
    """[L, R / L, ...] -> [R, ...], a copy."""
    return x.reshape(-1, *x.shape[2:])[: len(self.runs)].copy()


def build(
  folders: Sequence[str],
  configs: Sequence,
  progress: Callable[[int, int], None] | None = None,
) -> Cohort:
  """Builds the runs of these configs, which `shape_of` calls equal.

  Args:
    folders: of the runs, below the workdir.
    configs: resolved.
    progress: called with (done, total) examples while data are read.

  Raises UserError for what only data, network and devices together can tell; Apart, which is one,
  where each run could be trained alone.
  """
  if jax.process_count() > 1:
    raise UserError("Runs are trained together on the devices of one process, not of several.")
  first = configs[0]
  datasets = _load(configs, progress)
  runs = tuple(map(Run, folders, configs, datasets))
  sizes = {(len(d.train), len(d.test), d.train.images.shape[1:]) for d in datasets}
  if len(sizes) > 1:
    told = " and ".join(f"{train} train and {test} test examples" for train, test, _ in sizes)
    raise Apart(f"config.data: the runs have data of different sizes, {told}.")
  counts = {tuple(np.bincount(d.train.labels, minlength=d.num_classes)) for d in datasets}
  if len(counts) > 1 and first.loss.name in FREQUENCY_LOSSES:
    raise Apart(
      f"config.loss.name = {first.loss.name!r} looks at class sizes, which differ between the runs."
    )
  size, batch_size = len(datasets[0].train), first.data.batch_size
  building.check_batch(first, size, devices=1)
  devices = tuple(jax.local_devices()[: len(configs)])
  steps_per_epoch = size // batch_size

  model = building.build_network(first, datasets[0], axis_name=None)
  apply = make_apply(model, jnp.dtype(first.model.precision or "float32"))
  states = [_untrained(run, model, steps_per_epoch) for run in runs]
  state = jax.tree.map(lambda *leaves: np.stack(leaves), *states)

  pool, first_of = _concatenate([d.train for d in datasets])
  resident = all(building.is_resident(first, dataset) for dataset in datasets)
  feed = Feed(pool, resident, devices)
  loss_of = lambda constants: building.build_loss(first, datasets[0], None, _varied(constants))
  program = _make_program(
    apply,
    loss_of,
    lambda constants: building.build_optimiser(first, steps_per_epoch, _varied(constants)),
    building.augmentation(first.data, datasets[0]),
    feed.axis,
    devices,
    one_by_one=_convolves(states[0].params),
    accumulate=first.optim.accumulate or 1,
  )
  measurers, observed = _observe_each(first, datasets, resident, model, apply, loss_of, states[0])
  return Cohort(
    runs,
    state,
    feed,
    first_of,
    program,
    measurers,
    observed,
    devices,
    building.epochs_to_observe(first.observe.epochs, first.optim.total_epochs),
    steps_per_epoch,
  )


def observing_devices(runs: int) -> list:
  """Where runs that are trained together are observed: as many at once as are listed.

  An accelerator takes one after another. A virtual device of a CPU serves as many threads as there
  are cores, and so every program is compiled for one device alone.
  """
  devices = jax.local_devices()[:runs]
  if jax.default_backend() != "cpu":
    return devices
  return devices[:1] * min(len(devices), os.cpu_count())


def _observe_each(
  config, datasets, resident: bool, model, apply, loss_of, state: TrainState
) -> tuple[tuple[Measurer, ...], tuple[Observed, ...]]:
  """A measurer for each run at once, and what each run is measured on; see `Cohort`."""
  devices = observing_devices(len(datasets))
  known = {}  # runs that share a data set and a device share its feeds
  observed = []
  for run, dataset in enumerate(datasets):
    device = devices[run % len(devices)]
    if (id(dataset), device) not in known:
      feeds = {
        name: Feed(getattr(dataset, name), resident, (device,)) for name in ("train", "test")
      }
      known[id(dataset), device] = building.what_to_observe(config, dataset, feeds)
    observed.append(known[id(dataset), device])
  measurers = {
    device: building.build_measurer(
      config, datasets[0], model, apply, loss_of, own, state, (device,)
    )
    for device, own in zip(devices, observed, strict=False)
  }
  return tuple(measurers[device] for device in devices), tuple(observed)


def _make_program(
  apply, loss_of, optimiser_of, augment, feed_axis, devices, one_by_one: bool, accumulate: int
) -> Callable:
  """(state [L, R / L, ...], images, labels, index [T, L, R / L, B]) -> (state, sums [L, T, R / L]).

  one_by_one: a device takes the steps of its runs one after another. For convolutions, which
  `vmap` makes grouped ones, that is twice as fast on a CPU.
  """

  def one_step(state: TrainState, images, labels):
    constants = state.constants
    seed = constants["seed"]
    step = make_step(
      apply, loss_of(constants), optimiser_of(constants), augment, seed, None, accumulate
    )
    return step(state, images, labels)

  def all_runs(state, images, labels):
    if len(labels) == 1:  # spares a batch axis of one, which costs half a small step again
      state, images, labels = jax.tree.map(lambda x: x[0], (state, images, labels))
      return jax.tree.map(lambda x: x[None], one_step(state, images, labels))
    if one_by_one:
      return jax.lax.map(lambda run: one_step(*run), (state, images, labels))
    return jax.vmap(one_step)(state, images, labels)

  def train(state, images, labels, index):
    return jax.lax.scan(lambda s, ids: all_runs(s, images[ids], labels[ids]), state, index)

  return jax.pmap(
    train,
    axis_name=AXIS,
    in_axes=(0, feed_axis, feed_axis, 1),
    donate_argnums=0,
    devices=devices,
  )


def _untrained(run: Run, model, steps_per_epoch: int) -> TrainState:
  config, dataset = run.config, run.dataset
  flat = flatten(config)
  varied = {key: np.float32(flat[key]) for key in VARIED if flat[key] is not None}
  optimiser = building.build_optimiser(config, steps_per_epoch)
  state = jax.device_get(building.untrained(model, optimiser, config, dataset))
  constants = state.constants | varied | {"seed": np.uint32(config.seed)}
  return jax.tree.map(np.asarray, state.replace(constants=constants))


def _varied(constants: dict) -> dict:
  return {key: constants[key] for key in VARIED if key in constants}


def _convolves(params) -> bool:
  return any(leaf.ndim == 4 for leaf in jax.tree.leaves(params))


def _load(configs: Sequence, progress) -> list[Dataset]:
  """The data set of each config; one object where they agree."""
  loaded = {}
  for config in configs:
    key = (config.seed, tuple(config.data.items()))
    if key not in loaded:
      fresh = building.load_data(config, progress)
      loaded[key] = next((known for known in loaded.values() if _same(known, fresh)), fresh)
  return [loaded[config.seed, tuple(config.data.items())] for config in configs]


def _same(a: Dataset, b: Dataset) -> bool:
  """Whether two data sets hold the same examples, so that one of them will do."""
  if a.streamed or b.streamed:
    return False
  fields = [field.name for field in dataclasses.fields(Split)]
  return all(
    np.array_equal(getattr(x, name), getattr(y, name))
    for x, y in ((a.train, b.train), (a.test, b.test))
    for name in fields
  )


def _concatenate(splits: list[Split]) -> tuple[Split, tuple[int, ...]]:
  """One split of all examples, and where those of each begin; a split that returns lies there once.

  Raises Apart for several splits that are streamed from disk.
  """
  known = list({id(split): split for split in splits}.values())
  if len(known) == 1:
    return known[0], (0,) * len(splits)
  if not all(isinstance(split.images, np.ndarray) for split in known):
    raise Apart("config.data.memory_budget_mib: the runs' data differ, and are streamed from disk.")
  begins = np.cumsum([0, *(len(split) for split in known)])
  begin = {id(split): int(at) for split, at in zip(known, begins, strict=False)}
  joined = Split(
    np.concatenate([split.images for split in known]),
    np.concatenate([split.labels for split in known]),
  )
  return joined, tuple(begin[id(split)] for split in splits)
