"""A long run holds no more memory at its end than it did early on."""

import os

import jax

from nc_jax.console import Console
from nc_jax.training import building, loop
from tests.configs import tiny


class Weighs(Console):
  """Notes what the process holds, in pages of memory and in arrays, at each observation."""

  def __init__(self, *arguments):
    super().__init__(*arguments, quiet=True)
    self.pages, self.arrays, self.bytes = [], [], []

  def observed(self, step, *arguments):
    super().observed(step, *arguments)
    with open("/proc/self/statm") as file:
      self.pages.append(int(file.read().split()[1]))
    live = jax.live_arrays()
    self.arrays.append(len(live))
    self.bytes.append(sum(array.nbytes for array in live))


def test_memory_stays_flat_over_observations_and_saves(tmp_path):
  epochs = int(os.environ.get("NC_JAX_EPOCHS", 120))
  config = tiny(
    optim__total_epochs=epochs,
    observe__epochs=tuple(range(0, epochs, max(epochs // 200, 1))),
    checkpoint__every_epochs=max(epochs // 200, 1),
  )
  experiment = building.build(config)
  console = Weighs(epochs, experiment.steps_per_epoch)
  loop.train(experiment, tmp_path, console)
  mib = [pages * os.sysconf("SC_PAGE_SIZE") / 2**20 for pages in console.pages]
  steps = epochs * experiment.steps_per_epoch
  print(f"{steps} steps, RSS in MiB:", *map(round, mib[:: len(mib) // 10]))
  print("arrays:", console.arrays[:: len(mib) // 10], "bytes:", console.bytes[:: len(mib) // 10])
  half = len(mib) // 2
  assert max(console.arrays[half:]) <= max(console.arrays[1:half])
  assert max(console.bytes[half:]) <= max(console.bytes[1:half])
  assert max(mib[half:]) < max(mib[1:half]) + 16, mib
