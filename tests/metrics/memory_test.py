"""Tens of thousands of classes in little memory: no [N, K] and no [K, K] array, ever."""

import subprocess
import sys

import pytest

PROGRAM = """
import pathlib
import numpy as np
import nc_jax as nc
K, D = 50_000, 1_024
rng = np.random.default_rng(0)
moments = nc.ClassMoments.empty(K, D)
for start in range(0, K, 10_000):  # one example of each class
  features = rng.standard_normal((10_000, D), np.float32)
  moments = nc.accumulate(moments, features, np.arange(start, start + 10_000), donate=True)
values = nc.measure(moments)
# Random directions in many dimensions are nearly orthogonal: cos ~ N(0, 1/D).
assert abs(float(values["nc2/angle_std_means"]) * D**0.5 - 1) < 0.01, values
assert float(values["classes/present"]) == K and float(values["nc1/cdnv"]) == 0
lines = pathlib.Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_fifty_thousand_classes_in_four_gib():
  done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  gib = int(done.stdout) / 2**20
  assert gib < 4  # a [K, K] array alone would take 9.3
