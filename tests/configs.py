"""Config files for tests: loaded as the command line loads them, or made tiny."""

import pathlib

ROOT = pathlib.Path(__file__).parent.parent

# A run of the embedded default that takes seconds: eight steps an epoch, four epochs.
TINY = {
  "data.train_size": 128,
  "data.test_size": 96,
  "data.batch_size": 16,
  "model.width": 24,
  "model.depth": 2,
  "optim.total_epochs": 4,
  "observe.batch_size": 20,
  "checkpoint.every_epochs": 1,
}


def load(name: str, variant: str | None = None):
  """The config of configs/NAME.py."""
  from nc_jax.command_line import load_config

  path = ROOT / "configs" / f"{name}.py"
  return load_config(f"{path}:{variant}" if variant else str(path))


def tiny(**overrides):
  """The tiny config, resolved; overrides are written `optim__peak_lr=0.1`."""
  from nc_jax import settings

  config = load("digits")
  overrides = {key.replace("__", "."): value for key, value in overrides.items()}
  for key, value in (TINY | overrides).items():
    group, _, name = key.rpartition(".")
    (config[group] if group else config)[name] = value
  return settings.resolve(config)
