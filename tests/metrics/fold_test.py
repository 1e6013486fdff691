"""Sums by class, as a CPU takes them and as an accelerator does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nc_jax.metrics import fold


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("slots", [1, 3, 64, 65, 200])
class TestClassSums:
  @pytest.fixture(autouse=True)
  def _on(self, platform, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)

  def test_are_those_of_a_loop(self, slots):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(150, 4)), rng.integers(0, slots, 150)
    sums = fold._class_sums(jnp.asarray(x, jnp.float32), jnp.asarray(labels), slots)
    expected = [x[labels == label].sum(axis=0) for label in range(slots)]
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-5)

  def test_labels_beyond_are_left_out(self, slots):
    labels = jnp.asarray([0, slots, slots - 1, slots, 0, slots], jnp.int32)
    counts = fold._class_sums(jnp.ones_like(labels), labels, slots)
    assert counts.dtype == jnp.int32
    assert int(counts.sum()) == 3 and int(counts[0]) == (3 if slots == 1 else 2)

  def test_nan_stays_in_its_class(self, slots):
    labels = jnp.arange(300) % slots
    x = jnp.zeros((300, 2)).at[slots - 1, 0].set(jnp.nan)
    found = np.isnan(fold._class_sums(x, labels, slots))
    assert np.argwhere(found).tolist() == [[slots - 1, 0]]
