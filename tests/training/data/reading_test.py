import logging

import numpy as np
import pytest

from nc_jax.errors import UserError
from nc_jax.training.data.reading import cached, fit


@pytest.fixture
def cache(tmp_path):
  """A function that asks for the cached arrays, and the list of the times they were made."""
  source = tmp_path / "source.bin"
  source.write_bytes(b"1234")
  made = []

  def make():
    made.append(1)
    images = np.arange(60_000).astype(np.uint8).reshape(5, 40, 300)
    return {"images": images, "labels": np.arange(5)}

  get = lambda name="set train": cached(
    str(tmp_path / "cache"), name, [source], ["images", "labels"], make
  )
  return get, made, source


def only(folder):
  (path,) = folder.iterdir()
  return path


def test_arrays_are_made_once_per_name_and_state_of_the_source(cache, tmp_path):
  get, made, source = cache
  first, second = get(), get()
  assert len(made) == 1
  for key in ("images", "labels"):
    np.testing.assert_array_equal(first[key], second[key])
    assert first[key].dtype == second[key].dtype
  get("set test")
  assert len(made) == 2
  source.write_bytes(b"12345")
  get()
  assert len(made) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "shorter", "renamed"])
def test_a_damaged_cache_is_named_and_made_again(cache, tmp_path, caplog, damage):
  get, made, _ = cache
  get()
  path = only(tmp_path / "cache")
  content = path.read_bytes()
  flipped = content[:200] + bytes([content[200] ^ 1]) + content[201:]  # within the images
  damaged = {
    "cut": content[:100],
    "flipped": flipped,
    "empty": b"",
    "shorter": content.replace(b"(5, 40, 300)", b"(3, 40, 300)"),  # np.load would believe it
    "renamed": content.replace(b"labels", b"lebals"),
  }
  assert damaged[damage] != content
  path.write_bytes(damaged[damage])
  with caplog.at_level(logging.WARNING, "nc_jax"):
    np.testing.assert_array_equal(get()["labels"], np.arange(5))
  assert len(made) == 2
  (record,) = caplog.records
  assert str(path) in record.getMessage() and "damaged" in record.getMessage()
  get()
  assert len(made) == 2 and only(tmp_path / "cache") == path


def test_a_name_of_any_length_and_letters_is_a_file_in_the_folder(cache, tmp_path):
  get, _, _ = cache
  for name in ("../" * 30 + "x", "a" * 1000, "ü\n\0" * 200, "/"):
    get(name)
    assert only(tmp_path / "cache").name.endswith(".npz")
    only(tmp_path / "cache").unlink()


def test_nothing_is_left_of_arrays_that_could_not_be_made(tmp_path):
  def fail():
    raise RuntimeError("no")

  with pytest.raises(RuntimeError):
    cached(str(tmp_path / "cache"), "set", [], [], fail)
  assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_refused(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="config.data.cache_dir = .*file/cache' cannot be written"):
    cached(str(tmp_path / "file" / "cache"), "set", [], ["x"], lambda: {"x": np.zeros(1)})


def test_fit_crops_the_middle_and_keeps_what_fits():
  image = np.random.default_rng(0).integers(0, 256, (10, 16, 3), dtype=np.uint8)
  np.testing.assert_array_equal(fit(image, 10), image[:, 3:13])
  square = image[:, :10]
  np.testing.assert_array_equal(fit(square, 10), square)


def test_fit_resizes_the_shorter_side_and_averages():
  # Columns of pairs of equal brightness, halved; the outer quarter on each side is cropped away.
  columns = np.repeat(np.array([9, 9, 50, 100, 150, 200, 9, 9], np.uint8), 2)
  image = np.broadcast_to(columns[:, None], (8, 16, 1))
  small = fit(image, 4)
  assert small.shape == (4, 4, 1) and small.dtype == np.uint8
  inner = small[2, 1:3, 0].astype(int)
  assert abs(inner[0] - 100) < 13 and abs(inner[1] - 150) < 13
  coloured = fit(np.broadcast_to(image, (8, 16, 3)), 4)
  np.testing.assert_array_equal(coloured[..., :1], small)
