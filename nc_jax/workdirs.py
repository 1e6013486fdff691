"""A workdir belongs to one config, and to one running process at a time."""

import contextlib
import fcntl
import os
import pathlib

from nc_jax import settings
from nc_jax.errors import UserError
from nc_jax.files import clear_unfinished, replacing


def check(workdir: pathlib.Path, config, observe_only: bool):
  """Raises UserError, and touches nothing, unless the workdir is new or made by this config.

  With `observe_only` it must hold a run, whose observe.* settings may differ.
  """
  if workdir.exists() and not workdir.is_dir():
    raise UserError(f"--workdir={workdir} is not a folder.")
  saved = workdir / "config.json"
  if saved.exists():
    changed = settings.differences(settings.saved(saved), config)
    if observe_only:
      changed = [text for text in changed if not text.startswith("observe.")]
    if changed:
      raise UserError(
        f"--workdir={workdir} holds a run of another config ({'; '.join(changed)}). "
        "Choose another folder, or the config it was made with."
      )
  elif observe_only:
    raise UserError(f"--workdir={workdir} holds no run to observe.")
  elif workdir.exists() and any(not path.name.startswith(".") for path in workdir.iterdir()):
    raise UserError(f"--workdir={workdir} holds files, but no run. Choose an empty or new folder.")


def finished(workdir: pathlib.Path) -> bool:
  """Whether the run ended: the verdict is the last thing that it writes."""
  return (workdir / "verdict.json").exists()


def check_free(workdir: pathlib.Path):
  """Raises UserError, and touches nothing, if a running process holds the workdir."""
  with contextlib.suppress(OSError), (workdir / ".lock").open() as lock:
    _lock(lock, fcntl.LOCK_SH, workdir)  # others may be asking too


@contextlib.contextmanager
def opened(workdir: pathlib.Path, config):
  """Makes the workdir, holds it for this process, and puts the config there. Raises as `held`."""
  with held(workdir):
    with replacing(workdir / "config.json") as file:
      file.write(settings.to_json(config))
    yield


@contextlib.contextmanager
def held(workdir: pathlib.Path):
  """Makes the workdir and holds it for this process.

  Raises UserError where another run holds it, where it cannot be made, and where a link leads out.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    _check_links(workdir)
    lock = (workdir / ".lock").open("a")  # which empties no file, should it be a link
  except OSError as error:
    raise UserError(f"--workdir={workdir} cannot be written: {error.strerror}.") from error
  with lock:  # which ends with the process, however it ends
    _lock(lock, fcntl.LOCK_EX, workdir)
    clear_unfinished(workdir)
    yield


def _check_links(workdir: pathlib.Path):
  """Raises UserError for a link that would make a run write elsewhere than in its workdir."""
  home = os.path.realpath(workdir)
  for folder, folders, files in os.walk(workdir):
    for path in (os.path.join(folder, name) for name in (*folders, *files)):
      target = os.path.realpath(path) if os.path.islink(path) else home
      if os.path.commonpath([home, target]) != home:
        raise UserError(f"--workdir={workdir}: {path} is a link out of the workdir, to {target}.")


def _lock(file, kind: int, workdir: pathlib.Path):
  try:
    fcntl.flock(file, kind | fcntl.LOCK_NB)
  except BlockingIOError:
    raise UserError(f"--workdir={workdir}: another run is writing there now.") from None
