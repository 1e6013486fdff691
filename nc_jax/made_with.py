"""What a run was made with, written beside its results: versions, and the devices."""

import datetime
import importlib.metadata
import json
import pathlib
import platform

import jax

from nc_jax.files import replacing

RECORD = "versions.json"
# Whatever computes or stores the numbers of a run.
PACKAGES = (
  "nc_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "scikit-learn",
)  # fmt: skip


def versions() -> dict[str, str]:
  """Of Python and of the packages that are installed, {package: version}."""
  found = {"python": platform.python_version()}
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      pass  # nc_jax itself may be run from where it lies
  return found


def facts() -> dict[str, str | int]:
  """Versions, and the devices of all processes together. Touches the devices."""
  devices = jax.devices()
  return versions() | {
    "device": devices[0].device_kind,
    "devices": len(devices),
    "processes": jax.process_count(),
  }


def changes(folder: pathlib.Path) -> str | None:
  """What is no longer as it was when the run in `folder` was last at work; None: all is.

  One line. A run that left no record says nothing.
  """
  try:
    record = _read(folder)
  except ValueError as error:
    return f"{folder / RECORD} is not readable and begins anew: {error}"
  if not record:
    return None
  before, now = dict(record[-1]), facts()
  before.pop("since", None)
  changed = [
    f"{name} {before.get(name)} (now {now.get(name)})"
    for name in now | before
    if before.get(name) != now.get(name)
  ]
  return f"What is there was made with {', '.join(changed)}." if changed else None


def note(folder: pathlib.Path):
  """Adds an entry to the record in `folder`, unless all is as in its last one.

  The record is a list of entries, the facts and `since`, the time from which they hold.
  """
  try:
    record = _read(folder)
  except ValueError:
    record = []
  if not record or changes(folder):
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with replacing(folder / RECORD) as file:
      json.dump([*record, {"since": since} | facts()], file, indent=2)
      file.write("\n")


def _read(folder: pathlib.Path) -> list[dict]:
  """The entries, oldest first. Raises ValueError for what is no record."""
  path = folder / RECORD
  if not path.exists():
    return []
  record = json.loads(path.read_text())
  if not isinstance(record, list) or not all(isinstance(entry, dict) for entry in record):
    raise ValueError("it holds no list of entries")
  return record
