import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nc_jax.errors import RunError
from nc_jax.training import checkpoints, heads, models, optim, steps


def make_state(seed=0, step=0):
  body = models.build("mlp", width=8, depth=2, image_shape=(4, 4, 1))
  model = models.Network(body, heads.build("linear", num_classes=3))
  optimiser = optim.sgd(0.1, weight_decay=0.0)
  images = np.zeros((1, 4, 4, 1), np.uint8)
  state = steps.init_state(model, optimiser, images, seed, np.float32([1]), np.float32([0]))
  return state.replace(step=steps.replicate(jnp.int32(step)))


def same(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


@pytest.fixture
def three(tmp_path):
  """A workdir with checkpoints 1, 2 and 3, of different states."""
  kept = checkpoints.Checkpoints(tmp_path, max_to_keep=3)
  for step in (1, 2, 3):
    kept.save(make_state(seed=step, step=step))
  kept.wait()
  kept.close()
  return tmp_path


def largest_file(folder):
  return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_what_is_saved_comes_back_bit_for_bit_on_all_devices(three):
  kept = checkpoints.Checkpoints(three)
  assert kept.steps() == [1, 2, 3]
  state = kept.restore_latest(like=make_state())
  same(state, make_state(seed=3, step=3))
  same(kept.restore(2, like=make_state()), make_state(seed=2, step=2))
  kernel = state.params["head"]["kernel"]
  assert len(kernel.devices()) == jax.local_device_count() and kernel.is_fully_replicated


def test_only_the_latest_are_kept(tmp_path):
  kept = checkpoints.Checkpoints(tmp_path, max_to_keep=2)
  for step in range(5):
    kept.save(make_state(step=step))
  kept.save(make_state(step=4))  # again: no error, no second copy
  kept.wait()
  assert kept.steps() == [3, 4]


def test_nothing_saved_is_nothing_restored(tmp_path):
  assert checkpoints.Checkpoints(tmp_path).restore_latest(like=make_state()) is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(three, damage, caplog):
  victim = largest_file(three / "checkpoints" / "3")
  content = bytearray(victim.read_bytes())
  if damage == "flip":
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(b ^ 0xFF for b in content[middle : middle + 64])
    victim.write_bytes(content)
  elif damage == "truncate":
    victim.write_bytes(content[: len(content) // 2])
  else:
    victim.unlink()
  kept = checkpoints.Checkpoints(three)
  same(kept.restore_latest(like=make_state()), make_state(seed=2, step=2))
  assert "checkpoint 3" in caplog.text
  kept.save(make_state(seed=9, step=3))  # the step can be saved again
  kept.wait()
  same(kept.restore_latest(like=make_state()), make_state(seed=9, step=3))


def test_if_all_are_damaged_the_error_says_so_and_nothing_is_deleted(three):
  for step in (1, 2, 3):
    largest_file(three / "checkpoints" / str(step)).write_bytes(b"")
  kept = checkpoints.Checkpoints(three)
  with pytest.raises(RunError, match="checkpoint 3"):
    kept.restore_latest(like=make_state())
  assert kept.steps() == [1, 2, 3]


def test_a_state_that_is_not_finite_is_not_saved(three):
  state = make_state(step=4)
  state.params["head"]["bias"] = state.params["head"]["bias"].at[1].set(jnp.nan)
  kept = checkpoints.Checkpoints(three, max_to_keep=3)
  with pytest.raises(RunError, match=r"after step 4: .*head/bias"):
    kept.save(state)
  assert kept.steps() == [1, 2, 3]
