"""Products of matrices in pieces: of whatever width, and as an accelerator cuts them too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nc_jax.metrics import products


@pytest.fixture(params=["cpu", "gpu"])
def cut_for(request, monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: request.param)


@pytest.mark.usefixtures("cut_for")
class TestBlocks:
  @pytest.mark.parametrize("dim", [1, 64, 224, 226, 300, 512, 600, 1111, 1600, 2300])
  def test_gram_is_the_product(self, dim):
    x = np.random.default_rng(0).normal(size=(40, dim)).astype(np.float32)
    wide = x.astype(np.float64)
    gram = np.asarray(products.gram(jnp.asarray(x)))
    np.testing.assert_allclose(gram, wide.T @ wide, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(np.triu(gram, 1), np.tril(gram, -1).T)

  @pytest.mark.parametrize("dim", [64, 300, 1600])
  def test_split_and_joined_a_matrix_is_what_it_was(self, dim):
    x = np.random.default_rng(0).normal(size=(dim, dim)).astype(np.float32)
    x += x.T
    blocks = products.split_blocks(jnp.asarray(x))
    np.testing.assert_array_equal(products.join_blocks(blocks, dim), x)
    shapes = [block.shape for block in blocks]
    rows = jnp.zeros((2, dim))
    parts = [rows[:, own] for own in products.panels(dim)]
    assert [block.shape for block in products.gram_blocks(parts)] == shapes

  def test_many_columns_are_cut_to_little_more_than_half(self):
    blocks = products.split_blocks(jnp.zeros((2000, 2000)))
    assert sum(block.size for block in blocks) < 0.65 * 2000**2

  def test_adding_blocks_that_hold_nothing_changes_nothing(self):
    blocks, zeros = (jnp.ones((2, 3)),), (jnp.zeros((2, 3)),)
    (same,) = products.add_blocks(blocks, zeros, jnp.asarray(False))
    np.testing.assert_array_equal(same, blocks[0])
    (twice,) = products.add_blocks(blocks, blocks, jnp.asarray(True))
    np.testing.assert_array_equal(twice, 2 * blocks[0])


@pytest.mark.usefixtures("cut_for")
@pytest.mark.parametrize("new", [False, True])
def test_squared_norms(new):
  x = np.random.default_rng(0).normal(size=(50, 333))
  found = products.squared_norms(jnp.asarray(x, jnp.float32), new=new)
  np.testing.assert_allclose(found, np.sum(x**2, axis=1), rtol=1e-5)
