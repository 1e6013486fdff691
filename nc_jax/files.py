"""Two promises about a workdir: a file is whole or absent, and one run writes at a time."""

import contextlib
import fcntl
import os
import pathlib
import tempfile

from nc_jax.errors import UserError


@contextlib.contextmanager
def replacing(path: pathlib.Path, mode: str = "w"):
  """Opens a file that takes `path`'s place when the block ends, and never when it fails."""
  descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
  try:
    with os.fdopen(descriptor, mode, newline=None if "b" in mode else "") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.chmod(temporary, 0o644)  # mkstemp's files are for their owner alone
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise


@contextlib.contextmanager
def locked(workdir: pathlib.Path):
  """Holds the workdir for this process. Raises UserError where another run holds it."""
  with (workdir / ".lock").open("w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(f"--workdir={workdir}: another run is writing there now.") from None
    yield  # the lock ends with the process, however it ends
