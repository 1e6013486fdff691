import asyncio
import errno
import gc
import os
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

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


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0xFF
  path.write_bytes(content)


DAMAGES = {
  "flipped": flip,
  "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
  "emptied": lambda path: os.truncate(path, 0),
  "deleted": pathlib.Path.unlink,
}
NEEDED = {  # files of a checkpoint without which it cannot be had
  "state/manifest.ocdbt", "state/d/*", "state/_METADATA", "checksums/metadata",
}  # fmt: skip
SPARE = {
  "_CHECKPOINT_METADATA", "commit_success.txt", "state/commit_success.txt",
  "checksums/commit_success.txt", "state/ocdbt.process_0/manifest.ocdbt",
  "state/ocdbt.process_0/d/*",
}  # fmt: skip


def files_of(checkpoint):
  """{what it is called in NEEDED or SPARE: one such file}."""
  paths = [p.relative_to(checkpoint) for p in checkpoint.rglob("*") if p.is_file()]
  return {str(p.with_name("*") if p.parent.name == "d" else p): checkpoint / p for p in paths}


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", DAMAGES)
def test_whichever_file_is_damaged_the_latest_whole_checkpoint_is_used(
  three, tmp_path, damage, caplog
):
  like, before = make_state(), three / "checkpoints"
  assert set(files_of(before / "3")) == NEEDED | SPARE
  for name in sorted(NEEDED | SPARE):
    workdir = tmp_path / "damaged"
    shutil.copytree(before, workdir / "checkpoints")
    victim = files_of(workdir / "checkpoints/3")[name]
    DAMAGES[damage](victim)
    caplog.clear()
    kept = checkpoints.Checkpoints(workdir)
    used = 2 if name in NEEDED else 3
    same(kept.restore_latest(like), make_state(seed=used, step=used))
    told = [record.getMessage() for record in caplog.records if record.name == "nc_jax"]
    assert len(told) == (name in NEEDED), (name, told)
    assert all("\n" not in line and "checkpoint 3" in line for line in told), told
    assert kept.steps() == list(range(1, used + 1))
    if name in NEEDED:
      kept.save(make_state(seed=9, step=3))  # the step can be saved again
      kept.wait()
      same(kept.restore(3, like), make_state(seed=9, step=3))
    kept.close()
    shutil.rmtree(workdir)


def test_if_all_are_damaged_the_error_says_so_and_nothing_is_deleted(three):
  for step, damage in zip((1, 2, 3), DAMAGES.values(), strict=False):
    damage(files_of(three / "checkpoints" / str(step))["state/d/*"])
  left = {path: path.read_bytes() for path in three.rglob("*") if path.is_file()}
  kept = checkpoints.Checkpoints(three)
  with pytest.raises(RunError, match="checkpoint 3 cannot be read"):
    kept.restore_latest(like=make_state())
  kept.close()
  assert {path: path.read_bytes() for path in three.rglob("*") if path.is_file()} == left


def test_a_state_that_is_not_finite_is_not_saved(three):
  state = make_state(step=4)
  state.params["head"]["bias"] = state.params["head"]["bias"].at[1].set(jnp.nan)
  kept = checkpoints.Checkpoints(three, max_to_keep=3)
  with pytest.raises(RunError, match=r"after step 4: .*head/bias"):
    kept.save(state)
  assert kept.steps() == [1, 2, 3]


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.EROFS, "Read-only file system", "/run/checkpoints/8/_METADATA"),
    ValueError("INTERNAL: Error opening: Read-only file system [source locations='f.cc']"),
  ],
  ids=["of Python", "of TensorStore"],
)
def test_a_failed_save_names_the_folder_and_the_cause(tmp_path, monkeypatch, error):
  def fails():
    raise error

  kept = checkpoints.Checkpoints(tmp_path)
  monkeypatch.setattr(kept._manager, "wait_until_finished", fails)
  says = f"to {tmp_path}/checkpoints: Read-only file system. Those before are whole"
  with pytest.raises(RunError, match=re.escape(says)):
    kept.wait()


@pytest.mark.parametrize("waits", ["its coroutine", "a future"])
def test_writes_that_fail_one_after_another_are_told_once(tmp_path, monkeypatch, caplog, waits):
  opened = []

  def full():
    return ValueError('Error writing "step/0" in OCDBT database "x": No space left on device [a]')

  async def fails(turns):
    for _ in range(turns):
      await asyncio.sleep(0)
    raise full()

  def fails_in_future(turns, future):
    if not turns:
      future.set_exception(full())
    else:
      asyncio.get_running_loop().call_soon(fails_in_future, turns - 1, future)

  def open_and_fail(*_, **__):
    """Each later than the one before, so that some fail after nobody waits any more."""
    opened.append(None)
    if waits == "its coroutine":
      return fails(len(opened))
    future = asyncio.get_running_loop().create_future()
    fails_in_future(len(opened), future)
    return future

  def failed():
    kept = checkpoints.Checkpoints(tmp_path)
    try:
      kept.save(make_state())
      kept.wait()
    except RunError as error:
      return str(error)

  monkeypatch.setattr(tensorstore, "open", open_and_fail)
  assert "No space left on device. Those before are whole" in failed()
  gc.collect()  # asyncio tells of a write when it is forgotten
  assert len(opened) > 5 and not caplog.records
