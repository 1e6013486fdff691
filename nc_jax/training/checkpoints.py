"""Checkpoints of the training state: saved asynchronously, verified when read."""

import contextlib
import logging
import pathlib
import re
import sys
import zlib
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp

from nc_jax.errors import RunError
from nc_jax.training.steps import TrainState, replicate

_log = logging.getLogger("nc_jax")
# A failed save is raised. Orbax logs it besides, from each of its threads with all of its stack,
# and asyncio tells of each other write that has failed by then that nobody asked how it ended.
logging.getLogger("absl").addFilter(
  lambda record: not (record.exc_info and "/orbax/" in record.pathname)
)
logging.getLogger("asyncio").addFilter(
  lambda record: not re.search("orbax|OCDBT", record.getMessage())
)


class _Manager(ocp.CheckpointManager):
  def reached_preemption(self, step: int) -> bool:
    """When to stop is the loop's affair, whose count Orbax would disturb (see `stopping`)."""
    return False


class Checkpoints:
  """The last few states of a run, in `workdir/checkpoints`.

  A save returns once the state is copied to the host; writing goes on behind training, and a
  save that was cut short leaves no trace. States are stored as host arrays, so that they can be
  restored on any number of devices, each leaf with a checksum, because Orbax has none. `place`
  puts such a state on the devices. Of several processes all call each method, and process 0
  writes.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    max_to_keep: int | None = None,
    read_only: bool = False,
    place: Callable[[TrainState], TrainState] = replicate,
  ):
    _leave_abandoned_unheard()
    self._place = place
    self._directory = workdir.absolute() / "checkpoints"
    options = ocp.CheckpointManagerOptions(
      max_to_keep=max_to_keep, cleanup_tmp_directories=not read_only, read_only=read_only
    )
    self._manager = _Manager(self._directory, options=options)

  def steps(self) -> list[int]:
    return sorted(self._manager.all_steps())

  def save(self, state: TrainState):
    """Saves a state under its step, unless it is there already.

    Raises RunError, and saves nothing, if a leaf is not finite: a good checkpoint must not give
    way to a useless one.
    """
    host = jax.device_get(state)
    step = int(host.step)
    if step in self.steps():
      return
    leaves = _named_leaves(host)
    broken = [name for name, leaf in leaves.items() if not np.isfinite(leaf).all()]
    if broken:
      raise RunError(f"Not finite after step {step}: {broken[0]}.")
    content = ocp.args.Composite(
      state=ocp.args.StandardSave(host),
      checksums=ocp.args.JsonSave({name: _checksum(leaf) for name, leaf in leaves.items()}),
    )
    with self._writing():
      self._manager.save(step, args=content)

  def restore(self, step: int, like: TrainState) -> TrainState:
    """The state saved at `step`, on the devices. Raises RunError if it is damaged."""
    try:
      read = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)),
          checksums=ocp.args.JsonRestore(),
        ),
      )
    except Exception as error:  # Orbax raises whatever its storage raised
      reason = _first_line(error)
      raise RunError(f"checkpoint {step} cannot be read: {reason}") from error
    for name, leaf in _named_leaves(read.state).items():
      if read.checksums.get(name) != _checksum(leaf):
        raise RunError(f"checkpoint {step} is damaged: the checksum of {name} does not match.")
    return self._place(read.state)

  def restore_latest(self, like: TrainState) -> TrainState | None:
    """The latest whole state; None if nothing was saved.

    A damaged checkpoint is named and passed over for the one before it. Raises RunError if all
    are damaged; they are then left as they are.
    """
    damaged, first = [], None
    for step in reversed(self.steps()):
      try:
        state = self.restore(step, like)
      except RunError as error:
        _log.warning("%s", error)
        damaged.append(step)
        first = first or error
        continue
      for bad in damaged:  # else the coming save of that step would be skipped
        self._manager.delete(bad)
      return state
    if first is not None:
      raise first
    return None

  def wait(self):
    """Returns when everything is on disk."""
    with self._writing():
      self._manager.wait_until_finished()

  def close(self):
    with self._writing():
      self._manager.close()

  @contextlib.contextmanager
  def _writing(self):
    """Orbax reports a failed save (a full disk, say) by whatever its storage raised, maybe late."""
    try:
      yield
    except Exception as error:
      cause = getattr(error, "strerror", None)  # of an OSError, whose text ends in a path
      if cause is None:
        # TensorStore tells of all its layers, the cause last: "...: No space left on device [...]".
        cause = _first_line(error).rpartition(": ")[2].partition(" [")[0]
      raise RunError(
        f"A checkpoint could not be written to {self._directory}: {cause}. Those before are whole."
      ) from error


def _leave_abandoned_unheard():
  """Reads and writes still on their way when one has failed tell, by a stack, that nobody waits."""
  before = sys.unraisablehook
  if getattr(before, "__name__", "") != "unless_abandoned":

    def unless_abandoned(what):
      if str(what.exc_value) != "Event loop is closed":
        before(what)

    sys.unraisablehook = unless_abandoned


def _first_line(error: Exception) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0]


def _named_leaves(state) -> dict[str, np.ndarray]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(state)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x) for path, x in leaves
  }


def _checksum(leaf: np.ndarray) -> int:
  return zlib.crc32(np.ascontiguousarray(leaf))
