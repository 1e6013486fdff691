"""Compiled programs, kept on disk: for the next start, or the next network."""

import atexit
import functools
import pathlib
import shutil
import tempfile

import jax

from nc_jax.errors import UserError

LEAST = 0.2  # s; a program that compiles faster is not worth a file


def keep_in(folder: str | None):
  """From now on programs are taken from `folder`, or compiled and put there.

  None: as $JAX_COMPILATION_CACHE_DIR says, else nowhere. Must come before anything is compiled,
  when JAX decides. A program is found again by what it computes, the versions of what compiled it,
  the compiler's flags and the device, so the numbers are the same; a file that cannot be read is a
  warning, and the program compiled. Nothing is ever deleted there.

  Raises UserError for a folder that cannot be made.
  """
  if folder is None:
    return
  if "://" not in folder:  # else a bucket's, which is JAX's affair
    try:
      path = pathlib.Path(folder).expanduser().absolute()
      path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(
        f"config.compilation_cache = {folder!r} cannot be made: {error.strerror}."
      ) from error
    folder = str(path)
  jax.config.update("jax_compilation_cache_dir", folder)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST)


@functools.cache
def share():
  """From now on this process compiles a program once, however many networks it builds.

  For commands that build one network after another of the same shape: each compiles its programs
  anew, and finds them in a temporary folder instead. Does nothing where programs are kept already,
  or no folder can be made.
  """
  if jax.config.jax_compilation_cache_dir is not None:
    return
  try:
    folder = tempfile.mkdtemp(prefix="nc_jax-")
  except OSError:
    return
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  keep_in(folder)
