"""A bench for each test of a launch script."""

import shutil

import pytest

from tests.launch.bench import Bench


@pytest.fixture
def bench(tmp_path) -> Bench:
  if shutil.which("flock") is None or shutil.which("nohup") is None:
    pytest.skip("made for Linux")
  return Bench(tmp_path)
