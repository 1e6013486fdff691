"""A file is whole or absent, and a new one takes the place of the old or does not."""

import contextlib
import os
import pathlib
import tempfile


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
