"""What takes time in this room is compilation, so it does without optimisations."""

import jax
import pytest


@pytest.fixture(autouse=True)
def quick_compiler():
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)
