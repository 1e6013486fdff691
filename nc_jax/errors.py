"""The two ways in which a run ends early, told apart by the exit status of the command line."""

import os
import sys
from collections.abc import Callable


class UserError(ValueError):
  """The request cannot be carried out as written; nothing was computed or changed. Exit 2."""


class RunError(RuntimeError):
  """The run itself failed; what was saved before is whole. Exit 1."""


def exit_status(run: Callable[[list[str]], int | None], argv: list[str], interrupted: str) -> int:
  """Runs a command. Whatever ends it early becomes one line on stderr and an exit status.

  Args:
    run: the command; returns its status, None for 0.
    argv: what it is called with.
    interrupted: what Ctrl-C leaves behind.
  """
  try:
    return run(argv) or 0
  except UserError as error:
    return _told(error, 2)
  except BrokenPipeError:  # whoever read our output has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except (RunError, OSError, MemoryError, *_of_jax()) as error:
    return _told(error, 1)
  except (RuntimeError, AssertionError) as error:
    if not (reason := _without_device(error)):
      raise
    return _told(reason, 1)
  except KeyboardInterrupt:
    return _told(f"Interrupted; {interrupted}.", 130)


def one_line(error: Exception | str) -> str:
  """The first line of a complaint; what a terminal would not print, or obey, is written out."""
  first_line = str(error).strip().partition("\n")[0]
  return printable(first_line)


def printable(text: str) -> str:
  """The text, in which what a terminal would not print, or obey, is written out."""
  return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)


def _told(error: Exception | str, status: int) -> int:
  print(f"nc_jax: {one_line(error) or 'out of memory'}", file=sys.stderr)
  return status


def _of_jax() -> tuple[type[Exception], ...]:
  """What JAX raises where a device fails, by running out of memory most of the time."""
  jax = sys.modules.get("jax")  # a command that needs no JAX does not load it
  return () if jax is None else (jax.errors.JaxRuntimeError,)


def _without_device(error: RuntimeError | AssertionError) -> str:
  """Why JAX found no device, if that is what it raised, by no type of its own; "" otherwise."""
  if str(error).startswith("Unable to initialize backend"):
    return str(error)
  jax = sys.modules.get("jax")
  if str(error) or jax is None or not jax.config.jax_platforms:
    return ""
  try:
    jax.devices()
  except AssertionError:  # without a word: JAX_PLATFORMS=cuda where there is no GPU
    return f"there is no device for JAX_PLATFORMS={jax.config.jax_platforms}"
  return ""
