"""Lets the tests of this folder import its helper modules, oracle and worlds; several devices."""

import pathlib
import sys

import jax
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture(scope="session")
def four_devices():
  if jax.device_count() < 4:
    pytest.skip("needs 4 devices: tests/conftest.py asks for them")
  return jax.devices()[:4]


@pytest.fixture(scope="session")
def mesh(four_devices):
  return jax.sharding.Mesh(np.array(four_devices).reshape(2, 2), ("a", "b"))
