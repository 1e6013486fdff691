"""Data: a name in, two splits of images and labels out.

`load` is the way in: a source reads or draws the examples, `Changes` say what becomes of them.
"""

import dataclasses
import inspect

import numpy as np

from nc_jax.errors import UserError
from nc_jax.training.data.files import arrays, folder
from nc_jax.training.data.handwriting import digits, two_digits
from nc_jax.training.data.mixtures import gaussian_mixture
from nc_jax.training.data.prepared import TEST_SPLITS, source
from nc_jax.training.data.reading import Reading, Unreadable
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


def load(name: str, *, seed: int, **settings) -> Dataset:
  """The data set that a config asks for, changed as it asks, with its normalisation.

  Args:
    name: of a source.
    seed: draws examples and changes.
    settings: values of the fields of `Reading` and `Changes` and of the parameters of any source,
      each under its key below `config.data`; None is the default.

  Raises UserError for a parameter that the source has no use for, and for what the data refuse.
  """
  settings = {key: value for key, value in settings.items() if value is not None}
  fields = lambda kind: {field.name for field in dataclasses.fields(kind)}
  takes = inspect.signature(SOURCES[name]).parameters.keys()
  # A source that draws its examples takes their number: then it is no change.
  options = settings.keys() & takes | settings.keys() - fields(Reading) - fields(Changes)
  for key in sorted(options - takes):
    raise UserError(
      f"config.data.{key} = {settings[key]!r}, but the source {name!r} has no use for it: use None."
    )
  pick = lambda keys: {key: settings[key] for key in keys & settings.keys()}
  given = {"seed": seed, "reading": Reading(**pick(fields(Reading)))}
  given = {key: given[key] for key in given.keys() & takes}
  try:
    dataset = SOURCES[name](**given, **pick(options))
  except (Unreadable, OSError) as error:
    raise UserError(f"config.data.dir: {error}.") from error
  dataset = transform(dataset, Changes(**pick(fields(Changes) - options)), seed)
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
