import numpy as np
import pytest
from PIL import Image

from nc_jax.errors import UserError
from nc_jax.training import data
from nc_jax.training.data.files import arrays, folder
from nc_jax.training.data.reading import Reading


def write(root, files):
  """Images at {"train/cat/1.png": array}."""
  for name, image in files.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(root / name)


def picture(value, height=6, width=8, channels=3):
  rng = np.random.default_rng(value)
  shape = (height, width, 3) if channels == 3 else (height, width)
  return rng.integers(0, 256, shape, dtype=np.uint8)


def test_a_folder_is_read_in_sorted_order_and_streams_the_same(tmp_path):
  files = {
    "train/dog/2.png": picture(2), "train/dog/1.PNG": picture(1), "train/cat/9.png": picture(9),
    "val/dog/4.png": picture(4),
  }  # fmt: skip
  write(tmp_path, files)
  (tmp_path / "train/dog/notes.txt").write_text("no image")
  told = []
  reading = Reading(progress=lambda *x: told.append(x), cache_dir=str(tmp_path / "cache"))
  pets = folder(dir=str(tmp_path), reading=reading)
  assert pets.class_names == ("cat", "dog") and pets.test.labels.tolist() == [1]
  assert pets.train.labels.tolist() == [0, 1, 1]
  np.testing.assert_array_equal(pets.train.images, [picture(9), picture(1), picture(2)])
  assert told == [(1, 3), (2, 3), (3, 3), (1, 1)]
  again = folder(dir=str(tmp_path), reading=reading)
  np.testing.assert_array_equal(again.train.images, pets.train.images)
  assert len(told) == 4  # from the cache
  streamed = folder(dir=str(tmp_path), reading=Reading(memory_budget_mib=0, read_threads=2))
  assert streamed.streamed and streamed.train.images.shape == (3, 6, 8, 3)
  np.testing.assert_array_equal(streamed.train.images[np.arange(3)], pets.train.images)


def test_grey_stays_grey_unless_one_image_has_colour(tmp_path):
  write(tmp_path, {"train/a/1.png": picture(1, channels=1), "test/a/1.png": picture(2, channels=1)})
  grey = folder(dir=str(tmp_path), reading=Reading())
  np.testing.assert_array_equal(grey.train.images[0, ..., 0], picture(1, channels=1))
  write(tmp_path, {"test/a/2.png": picture(3)})
  mixed = folder(dir=str(tmp_path), reading=Reading())
  np.testing.assert_array_equal(mixed.train.images[0, ..., 2], picture(1, channels=1))
  np.testing.assert_array_equal(mixed.test.images[1], picture(3))


def test_images_of_several_sizes_need_a_size(tmp_path):
  write(tmp_path, {"train/a/1.png": picture(1), "test/a/1.png": picture(2, height=20, width=10)})
  with pytest.raises(UserError, match=r"image_size = None, but .*1.png is 20 x 10 and .* 6 x 8"):
    folder(dir=str(tmp_path), reading=Reading())
  square = folder(dir=str(tmp_path), image_size=6, reading=Reading())
  np.testing.assert_array_equal(square.train.images[0], picture(1)[:, 1:7])  # cropped, not resized
  assert square.test.images.shape == (1, 6, 6, 3)


@pytest.mark.parametrize(
  "files, line",
  [
    ({"train/a/1.png": picture(1)}, "there is no folder .*test"),
    ({"train/a/1.png": picture(1), "test/b/1.png": picture(1)}, "class 'b' of test is not in"),
    ({"train/a/1.png": picture(1), "test/a/1.gif": picture(1)}, r"test holds no CLASS/\*.png"),
  ],
)
def test_folders_without_the_images_are_refused(tmp_path, files, line):
  write(tmp_path, files)
  with pytest.raises(UserError, match=line):
    folder(dir=str(tmp_path), reading=Reading())


def test_a_broken_image_is_named(tmp_path):
  write(tmp_path, {"train/a/1.png": picture(1), "test/a/1.png": picture(1)})
  (tmp_path / "train/a/2.png").write_bytes(b"not a png")
  with pytest.raises(UserError, match="config.data.dir: .*2.png: cannot identify image file"):
    data.load("folder", seed=0, dir=str(tmp_path))


def archive(path, **changes):
  content = {
    "train_images": np.arange(24, dtype=np.uint8).reshape(3, 4, 2), "train_labels": [0, 1, 2],
    "test_images": np.zeros((1, 4, 2), np.uint8), "test_labels": [1],
  } | changes  # fmt: skip
  np.savez(path, **{key: np.array(value) for key, value in content.items() if value is not None})
  return str(path)


def test_arrays_are_read_from_an_npz_file(tmp_path):
  dataset = arrays(dir=archive(tmp_path / "set.npz"))
  assert dataset.train.images.shape == (3, 4, 2, 1) and dataset.class_names == ("0", "1", "2")
  np.testing.assert_array_equal(dataset.train.images.ravel(), np.arange(24))
  assert dataset.train.labels.dtype == np.int32 and dataset.test.labels.tolist() == [1]


@pytest.mark.parametrize(
  "changes, line",
  [
    ({"test_labels": None}, "has no array test_labels"),
    ({"train_images": np.zeros((3, 4, 2))}, r"must be uint8 .* got float64 \[3, 4, 2\]"),
    ({"train_labels": [0, 1]}, r"train_labels must be 3 integers; got int64 \[2\]"),
    ({"train_labels": [0, -1, 1]}, r"train_labels must .* K <= 3 train examples; got -1 in row 1"),
    ({"train_labels": [0.0, 1.0, 2.0]}, "got float64"),
    ({"test_images": np.zeros((1, 2, 4), np.uint8)}, r"train are \(4, 2, 1\) and of test"),
    ({"train_labels": np.array([0, None, 1], object)}, "holds pickled objects, not numbers"),
    ({"test_labels": [3]}, r"test_labels must lie in .*; got 3 in row 0"),
    ({"train_labels": np.array([0, 1, 2**32], "u8")}, "got 4294967296 in row 2"),
    ({"test_images": np.zeros((0, 4, 2), np.uint8), "test_labels": []}, "test_images must be"),
    ({"train_labels": np.arange(3).astype("m8[s]")}, "must be 3 integers; got timedelta64"),
  ],
)
def test_other_arrays_are_refused(tmp_path, changes, line):
  with pytest.raises(UserError, match=line):
    arrays(dir=archive(tmp_path / "set.npz", **changes))


def test_a_file_that_is_no_archive_is_refused(tmp_path):
  (tmp_path / "set.npz").write_bytes(b"PK nonsense")
  with pytest.raises(UserError, match="set.npz cannot be read, is it damaged"):
    arrays(dir=str(tmp_path / "set.npz"))
  with pytest.raises(UserError, match="config.data.dir: there is no file .*absent.npz"):
    arrays(dir=str(tmp_path / "absent.npz"))
  np.save(tmp_path / "one.npy", np.zeros(3))
  with pytest.raises(UserError, match="one.npy cannot be read, is it damaged"):
    arrays(dir=str(tmp_path / "one.npy"))


@pytest.mark.parametrize("read", [arrays, lambda dir: folder(dir=dir, reading=Reading())])
def test_the_place_must_be_given(read):
  with pytest.raises(UserError, match="config.data.dir = None"):
    read(dir=None)
