import numpy as np
import pytest

from nc_jax.errors import UserError
from nc_jax.training import data
from nc_jax.training.data.prepared import TEST_SPLITS, find
from nc_jax.training.data.reading import Reading
from tests.training.data.prepared_sets import REAL, builder, needs_real, random_split

SHAPES = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "kmnist": (28, 28, 1),
          "stl10": (96, 96, 3), "imagenet_resized/8x8": (8, 8, 3),
          "imagenet_resized/16x16": (16, 16, 3), "imagenet_resized/64x64": (64, 64, 3)}  # fmt: skip


def prepare(name, root, train=20, test=10, shape=None, **options):
  """Prepares a tiny set in the shape of the true one; returns its images and labels by split."""
  size = SHAPES.get(name, (32, 32, 3))
  splits = {"train": random_split(train, size, 10), TEST_SPLITS[name]: random_split(test, size, 10)}
  builder(name, root, splits, shape=shape, **options).download_and_prepare()
  return splits


def in_order(images):
  """TFDS stores examples in a mixed order: sorted by their bytes, two sets can be compared."""
  return np.array(sorted(images, key=lambda image: image.tobytes()))


@pytest.mark.parametrize("name", [name for name in TEST_SPLITS if name != "imagenet2012"])
def test_every_tfds_set_builds_in_memory_and_streamed(name, tmp_path):
  truth = prepare(name, tmp_path)
  names = tuple(f"class{k}" for k in range(10))
  known = {image.tobytes(): label for images, labels in truth.values()
           for image, label in zip(images, labels, strict=True)}  # fmt: skip
  dataset = data.SOURCES[name](dir=str(tmp_path), reading=Reading())
  streamed = data.SOURCES[name](dir=str(tmp_path), reading=Reading(memory_budget_mib=0))
  assert dataset.class_names == streamed.class_names == names
  for split, true_split in (("train", "train"), ("test", TEST_SPLITS[name])):
    read, lazy = getattr(dataset, split), getattr(streamed, split)
    np.testing.assert_array_equal(in_order(read.images), in_order(truth[true_split][0]))
    assert read.labels.tolist() == [known[image.tobytes()] for image in read.images]
    np.testing.assert_array_equal(lazy.images[np.arange(len(lazy))], read.images)
    np.testing.assert_array_equal(lazy.labels, read.labels)


def test_images_of_several_sizes_need_one(tmp_path):
  prepare("imagenet2012", tmp_path, shape=(None, None, 3))
  with pytest.raises(UserError, match="image_size = None, but images of imagenet2012 differ"):
    data.load("imagenet2012", seed=0, dir=str(tmp_path))
  for budget in (0.0, 1024.0):
    options = {"dir": str(tmp_path), "image_size": 8, "memory_budget_mib": budget}
    resized = data.load("imagenet2012", seed=0, **options)
    assert resized.train.images.shape == (20, 8, 8, 3)
    assert resized.streamed == (budget == 0)


def test_the_cache_spares_decoding_and_progress_counts_examples(tmp_path):
  prepare("cifar10", tmp_path, train=1500)
  told = []
  options = {"dir": str(tmp_path), "cache_dir": str(tmp_path / "cache"), "seed": 0}
  first = data.load("cifar10", **options, progress=lambda *x: told.append(x))
  assert told == [(1000, 1500), (1500, 1500), (10, 10)]
  second = data.load("cifar10", **options, progress=lambda *x: told.append(x))
  assert len(told) == 3
  np.testing.assert_array_equal(first.train.images, second.train.images)
  np.testing.assert_array_equal(first.test.labels, second.test.labels)


def test_the_newest_version_in_array_record_form_is_read(tmp_path):
  prepare("mnist", tmp_path)
  folder = tmp_path / "mnist" / "1.2.3"
  assert find("mnist", tmp_path) == folder
  forms = {"1.10.0": "array_record", "1.9.0": "array_record", "2.0.0": "tfrecord"}
  for version, form in forms.items():
    (tmp_path / "mnist" / version).mkdir()
    (tmp_path / "mnist" / version / "dataset_info.json").write_text(f'{{"fileFormat": "{form}"}}')
  assert find("mnist", tmp_path) == tmp_path / "mnist" / "1.10.0"


def test_a_data_set_that_is_not_prepared_says_what_was_looked_for_where_and_what_prepares_it(
  tmp_path, monkeypatch
):
  line = f"config.data.name = 'mnist': no prepared data in {tmp_path}/mnist. `python -m nc_jax.prep"
  with pytest.raises(UserError, match=f"{line}are mnist --data_dir={tmp_path}` prepares it"):
    data.load("mnist", seed=0, dir=str(tmp_path))
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  with pytest.raises(UserError, match=line):
    data.load("mnist", seed=0)


def test_damaged_data_are_refused_in_one_line(tmp_path):
  prepare("mnist", tmp_path)
  (record,) = (tmp_path / "mnist" / "1.2.3").glob("mnist-train*")
  record.write_bytes(b"damage" * 100)
  with pytest.raises(UserError, match="1.2.3 could not be read as a TFDS data set") as refusal:
    data.load("mnist", seed=0, dir=str(tmp_path))
  assert "\n" not in str(refusal.value)


@needs_real("mnist")
def test_mnist_is_read_without_tensorflow_and_streams_the_same():
  mnist = data.load("mnist", seed=0, dir=str(REAL), train_size=5000)
  assert mnist.train.images.shape == (5000, 28, 28, 1)
  assert mnist.test.images.shape == (10000, 28, 28, 1)
  np.testing.assert_array_equal(np.bincount(mnist.train.labels), 500)
  x = mnist.train.images * mnist.scale + mnist.shift
  assert x.mean() == pytest.approx(0, abs=1e-4) and x.std() == pytest.approx(1, abs=1e-4)
  streamed = data.load("mnist", seed=0, dir=str(REAL), train_size=5000, memory_budget_mib=1.0)
  np.testing.assert_array_equal(streamed.train.labels, mnist.train.labels)
  np.testing.assert_array_equal(streamed.train.ids, mnist.train.ids)
  places = np.random.default_rng(0).integers(0, 5000, (2, 100))
  np.testing.assert_array_equal(streamed.train.images[places], mnist.train.images[places])
  np.testing.assert_allclose(streamed.scale, mnist.scale, rtol=0.02)  # of a sample
