import numpy as np
import pytest

from nc_jax import replicates
from nc_jax.errors import UserError

V = ("test", "stage1_block1.average", "probe/fine/ridge/0.001")
ERROR = ("train", "logits", "error/classifier")


def test_what_is_written_is_read(tmp_path):
  for epoch in (0, 20):
    replicates.save(tmp_path, epoch, {V: np.arange(4) + epoch, ERROR: np.full(4, np.nan)})
  replicates.save(tmp_path, 20, {V: np.arange(4.0)})  # observed once more
  replicates.save(tmp_path, 30, {})
  found = replicates.load(tmp_path)
  assert {place: sorted(curve) for place, curve in found.items()} == {V: [0, 20], ERROR: [0]}
  np.testing.assert_array_equal(found[V][20], [0, 1, 2, 3])
  assert replicates.load(tmp_path / "elsewhere") == {}


def test_a_damaged_file_is_named(tmp_path):
  replicates.save(tmp_path, 7, {V: np.arange(4)})
  path = tmp_path / "replicates" / "7.npz"
  whole = path.read_bytes()
  for damaged in (whole[:-30], b"", whole.replace(b"\x93NUMPY", b"\x93NUMPI")):
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="7.npz cannot be read, is it damaged"):
      replicates.load(tmp_path)
