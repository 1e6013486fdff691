"""The arrays of one file: every number comes back, and damage is found."""

import io
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from nc_jax.errors import UserError
from nc_jax.exported import arrays
from nc_jax.npz import opened
from tests import fuzz
from tests.exported import sets


def read(path):
  """{name: array}; None for names that mean nothing to us."""
  found = arrays.read(path, advance=lambda size: None)
  return {name: array if array is None else opened(array) for name, array in found.items()}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ">f4", "int8", "uint16"])
@pytest.mark.parametrize("order", [np.ascontiguousarray, np.asfortranarray])
def test_every_number_comes_back(tmp_path, save, dtype, order):
  made = sets.arrays(labels=np.arange(sets.N, dtype="u1") % sets.K)
  made["features"] = order((100 * np.abs(made["features"])).astype(dtype))
  save(tmp_path / "a.npz", **made, epoch=7)
  found = read(tmp_path / "a.npz")
  assert found.pop("epoch") is None
  assert list(found) == list(made)
  for name, array in made.items():
    np.testing.assert_array_equal(found[name], array, strict=True)
    mapped = isinstance(found[name], np.memmap)
    assert mapped == (save is np.savez)  # so that it may be larger than memory


def archive(save):
  file = io.BytesIO()
  save(file, **sets.arrays())
  return file.getvalue()


def npy(array):
  file = io.BytesIO()
  np.save(file, array)
  return file.getvalue()


def zipped(name=None, array=()):
  """A zip file with one member, or with none."""
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as made:
    if name:
      made.writestr(name, npy(array))
  return file.getvalue()


def refuse(path, *words):
  """The file cannot be read, and the one line that says so names it and has these words."""
  with pytest.raises(UserError) as caught:
    read(path)
  message = str(caught.value)
  assert all(word in message for word in (str(path), *words)), message
  assert "\n" not in message and len(message) < 400 and message.endswith(".")


def test_what_is_no_file_of_arrays_is_named(tmp_path):
  refuse(tmp_path / "absent.npz", "there is no file")
  refuse(tmp_path, "is not a file")
  for name, raw, words in (
    ("text.npz", b"label,feature\n", ["neither an .npz nor an .npy file"]),
    ("empty.npz", b"", ["empty.npz is empty"]),
    ("model.pt", zipped("archive/data.pkl"), ["holds no arrays", "torch.save", "np.savez"]),
    ("none.npz", zipped(), ["holds no arrays."]),
    ("objects.npz", zipped("features.npy", np.full(3, None)), ["pickled objects", "stay unread"]),
    ("x.npy", npy(np.zeros(3)), ["must be called *features*.npy"]),
  ):
    (tmp_path / name).write_bytes(raw)
    refuse(tmp_path / name, *words)


def test_an_npy_file_needs_its_labels(tmp_path):
  np.save(tmp_path / "train_features.npy", sets.arrays()["features"])
  with pytest.raises(UserError, match="there is no file .*train_labels.npy"):
    read(tmp_path / "train_features.npy")


def test_what_was_cut_or_changed_is_named(tmp_path):
  features, raw = sets.arrays()["features"], archive(np.savez)
  (tmp_path / "cut.npz").write_bytes(raw[: len(raw) // 2])
  refuse(tmp_path / "cut.npz", "cannot be read, is it damaged or cut short?")
  place = raw.index(features.tobytes()[:16])
  (tmp_path / "flipped.npz").write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
  refuse(tmp_path / "flipped.npz", "cannot be read", "Bad CRC-32 for file 'features.npy'")
  (tmp_path / "features.npy").write_bytes(npy(features)[:-1])
  refuse(tmp_path / "features.npy", "cannot be read", "551 bytes", "[23, 6]")


def test_what_is_read_for_its_checksum_is_told(tmp_path):
  path, told = sets.saved(tmp_path / "a.npz", **sets.arrays()), []
  arrays.read(path, told.append)
  assert sum(told) == sum(array.nbytes + 128 for array in sets.arrays().values())


ORIGINALS = {"stored": archive(np.savez), "deflated": archive(np.savez_compressed)}


@fuzz.search(150)
@hypothesis.given(st.data(), st.sampled_from(sorted(ORIGINALS)))
def test_damage_is_found_or_harmless(tmp_path_factory, data, kind):
  """Bytes changed, cut or doubled anywhere: one sentence, or the very same numbers."""
  raw = bytearray(ORIGINALS[kind])
  for _ in range(data.draw(st.integers(1, 4))):
    # Half of them in the directory at the end, where a zip file is easily led astray.
    last = len(raw) - 1
    place = data.draw(st.integers(0, last) | st.integers(max(last - 400, 0), last))
    match data.draw(st.sampled_from(["flip", "set", "cut", "double", "end"])):
      case "flip":
        raw[place] ^= 1 << data.draw(st.integers(0, 7))
      case "set":
        raw[place] = data.draw(st.sampled_from([0, 1, 8, 127, 255]))
      case "cut":
        del raw[place : place + data.draw(st.integers(1, 40))]
      case "double":
        raw[place:place] = raw[place : place + data.draw(st.integers(1, 40))]
      case "end":
        del raw[place:]
    hypothesis.assume(raw)
  path = tmp_path_factory.getbasetemp() / "damaged.npz"
  path.write_bytes(raw)
  try:
    found = read(path)
  except UserError as error:
    assert str(path) in str(error) and "\n" not in str(error)
    return
  # A renamed member is another array; what is found must be unharmed.
  for name, array in found.items():
    if array is not None:
      np.testing.assert_array_equal(array, sets.arrays()[name], strict=True)
