"""Data: a name in, two splits of images and labels out.

`load` is the way in: a source reads or draws the examples, `Changes` say what becomes of them.
"""

import dataclasses
import inspect
from collections.abc import Callable

import numpy as np

from nc_jax.errors import UserError
from nc_jax.training.data.files import arrays, folder
from nc_jax.training.data.handwriting import digits, two_digits
from nc_jax.training.data.mixtures import gaussian_mixture
from nc_jax.training.data.prepared import TEST_SPLITS, source
from nc_jax.training.data.reading import Reading
from nc_jax.training.data.sets import Dataset, Split, normalisation
from nc_jax.training.data.transforms import Changes, transform

__all__ = ["SOURCES", "Changes", "Dataset", "Reading", "Split", "epoch_order", "load"]

SOURCES = {
  "digits": digits,
  "two_digits": two_digits,
  "gaussian_mixture": gaussian_mixture,
  "folder": folder,
  "arrays": arrays,
  **{name: source(name) for name in TEST_SPLITS},
}


def load(
  name: str, *, seed: int, progress: Callable[[int, int], None] | None = None, **settings
) -> Dataset:
  """The data set that a config asks for, changed as it asks, with its normalisation.

  Args:
    name: of a source.
    seed: draws examples and changes.
    progress: called with (done, total) examples while a set is decoded.
    settings: values of fields of `Changes` and `Reading`, and of the parameters of any source,
      each as its key below `config.data`. A source's parameter may be None: its own default.

  Raises UserError for a parameter that the source has no use for, and for what the data refuse.
  """
  fields = lambda kind: {field.name for field in dataclasses.fields(kind)}
  chosen = lambda kind: {key: settings[key] for key in settings.keys() & fields(kind)}
  reading, changes = chosen(Reading), chosen(Changes)
  if progress is not None:
    reading["progress"] = progress
  takes = inspect.signature(SOURCES[name]).parameters
  options = {}
  for key in sorted(settings.keys() - reading.keys() - (changes.keys() - takes.keys())):
    if settings[key] is None:
      continue
    if key not in takes:
      raise UserError(
        f"config.data.{key} = {settings[key]!r}, but the source {name!r} has no use for it: "
        "use None."
      )
    options[key] = settings[key]
  drawn = options.keys() & changes.keys()  # a source that draws its examples draws so many
  changes = {key: value for key, value in changes.items() if key not in drawn}
  if "seed" in takes:
    options["seed"] = seed
  if "reading" in takes:
    options["reading"] = Reading(**reading)
  dataset = transform(SOURCES[name](**options), Changes(**changes), seed)
  if dataset.scale is None:
    scale, shift = normalisation(dataset.train.images)
    held_out = dataset.held_out
    if held_out is not None:
      held_out = dataclasses.replace(held_out, scale=scale, shift=shift)
    dataset = dataclasses.replace(dataset, scale=scale, shift=shift, held_out=held_out)
  return dataset


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
  """The order in which an epoch visits the train set: a function of (seed, epoch) alone, [N]."""
  return np.random.default_rng([seed, epoch]).permutation(size)
