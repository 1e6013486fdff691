"""import nc_jax pulls in jax and numpy alone, starts no backend and writes nothing."""

import subprocess
import sys

PROGRAM = """
import sys
import nc_jax
heavy = ["flax", "clu", "torch", "tensorflow", "optax", "orbax", "matplotlib"]
assert not [name for name in heavy if name in sys.modules]
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "an import must not occupy a device"
print(sorted(nc_jax.__all__))
"""


def test_import():
  done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert done.stderr == "" and "'measure'" in done.stdout
