"""A file is whole or absent, and a new one takes the place of the old or does not."""

import contextlib
import os
import pathlib
import tempfile

from nc_jax.errors import UserError

_UNFINISHED = ".unfinished"  # the end of the names of files that nobody has seen whole


@contextlib.contextmanager
def replacing(path: pathlib.Path, mode: str = "w"):
  """Opens a file that takes `path`'s place when the block ends, and never when it fails."""
  with telling(path):
    descriptor, temporary = tempfile.mkstemp(**_beside(path))
    try:
      with os.fdopen(descriptor, mode, newline=None if "b" in mode else "") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.chmod(temporary, 0o644)  # mkstemp's files are for their owner alone
      os.replace(temporary, path)
    except BaseException:
      with contextlib.suppress(OSError):  # nor can it be removed where nothing can be written
        os.unlink(temporary)
      raise


def check_place(flag: str, path: pathlib.Path):
  """Raises UserError if `replacing` could not begin; `flag` asks for a file that comes late."""
  try:
    if not path.parent.is_dir():
      raise UserError(f"--{flag}={path}: there is no folder {path.parent}.")
    if path.is_dir():
      raise UserError(f"--{flag}={path} is a folder.")
    tempfile.NamedTemporaryFile(**_beside(path)).close()
  except OSError as error:
    raise UserError(f"--{flag}={path} cannot be written: {error.strerror}.") from None


def _beside(path: pathlib.Path) -> dict[str, str | pathlib.Path]:
  """What the file is called that is to take `path`'s place."""
  return {"suffix": _UNFINISHED, "prefix": f".{path.name}.", "dir": path.parent}


def append(path: pathlib.Path, content: bytes):
  """Writes at the end of a file; on disk when this returns. If it fails, the file is as before."""
  with telling(path), path.open("ab", buffering=0) as file:
    end = file.seek(0, os.SEEK_END)
    try:
      rest = memoryview(content)
      while rest:  # a disk that is nearly full takes a part
        rest = rest[file.write(rest) :]
      os.fsync(file.fileno())
    except BaseException:
      with contextlib.suppress(OSError):
        file.truncate(end)
      raise


@contextlib.contextmanager
def telling(path: pathlib.Path):
  """Lets an OSError say which file it is about: a full disk does not."""
  try:
    yield
  except OSError as error:
    if error.filename is not None or error.errno is None:
      raise
    raise OSError(error.errno, error.strerror, str(path)) from error


def clear_unfinished(folder: pathlib.Path):
  """Removes what processes left in a folder, and below it, that died while they wrote a file.

  None may be writing there now.
  """
  for path in folder.rglob(f".*{_UNFINISHED}"):
    path.unlink()
