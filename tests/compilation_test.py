"""Compiled programs on disk."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from nc_jax import compilation
from nc_jax.errors import UserError


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
  """JAX's own settings afterwards; it reads them once, unless it is told to forget."""
  names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs",
           "jax_enable_compilation_cache")  # fmt: skip
  before = {name: getattr(jax.config, name) for name in names}
  jax.config.update("jax_enable_compilation_cache", True)
  monkeypatch.setattr(compilation, "LEAST", 0.0)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def result():
  """What a program computes that is compiled, or read, each time."""
  jax.clear_caches()
  return np.asarray(jax.jit(lambda x: jnp.tanh(x @ x.T).sum(axis=0) * 3)(jnp.eye(7) + 0.1))


def test_programs_are_kept_found_again_and_survive_damage(tmp_path):
  expected = result()
  compilation_cache.reset_cache()
  folder = tmp_path / "a" / "cache"
  compilation.keep_in(str(folder))
  np.testing.assert_array_equal(result(), expected)
  kept = {path: path.read_bytes() for path in folder.glob("*-cache")}
  assert any("lambda" in path.name for path in kept)
  np.testing.assert_array_equal(result(), expected)
  assert {path: path.read_bytes() for path in folder.glob("*-cache")} == kept

  for spoil in (lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:99] + b"spoilt" + b[105:]):
    for path, content in kept.items():
      path.write_bytes(spoil(content))
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      np.testing.assert_array_equal(result(), expected)


def test_without_a_folder_nothing_changes():
  before = jax.config.jax_compilation_cache_dir
  compilation.keep_in(None)
  assert jax.config.jax_compilation_cache_dir == before


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="config.compilation_cache = .* cannot be made: "):
    compilation.keep_in(str(tmp_path / "file" / "cache"))


def test_a_process_shares_programs_by_itself(monkeypatch, tmp_path):
  monkeypatch.setattr(compilation.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
  jax.config.update("jax_compilation_cache_dir", None)
  expected = result()
  compilation_cache.reset_cache()
  compilation.share.__wrapped__()
  np.testing.assert_array_equal(result(), expected)
  kept = sorted(path.name for path in tmp_path.glob("*-cache"))
  assert any("lambda" in name for name in kept)
  np.testing.assert_array_equal(result(), expected)
  assert sorted(path.name for path in tmp_path.glob("*-cache")) == kept


def test_programs_that_are_kept_already_are_not_moved(tmp_path):
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  compilation.share.__wrapped__()
  assert jax.config.jax_compilation_cache_dir == str(tmp_path)
