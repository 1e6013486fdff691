import inspect

import numpy as np
import pytest

from nc_jax.errors import UserError
from nc_jax.training import data
from tests.training.data.prepared_sets import REAL, builder, needs_real, random_split


@pytest.mark.parametrize(
  "name, settings, shape, classes",
  [
    ("digits", {}, (10, 10, 1), 10),
    ("two_digits", {}, (10, 20, 1), 100),
    ("gaussian_mixture", {"classes": 5, "dim": 12, "separation": 3.0}, (1, 1, 12), 5),
  ],
)
def test_sources_that_draw_their_examples_draw_as_many_as_asked(name, settings, shape, classes):
  dataset = data.load(name, seed=1, train_size=1500, test_size=200, dir=None, **settings)
  assert dataset.train.images.shape == (1500, *shape)
  assert dataset.test.images.shape == (200, *shape)
  assert dataset.num_classes == len(dataset.class_names) == classes
  other = data.load(name, seed=2, train_size=1500, test_size=200, **settings)
  assert (other.train.images != dataset.train.images).mean() > 0.4


def npz(tmp_path):
  (images, labels), (test_images, test_labels) = (
    random_split(size, (4, 4, 3), 5, seed=size) for size in (100, 50)
  )
  images[..., 1] //= 4  # channels of different scale
  images[..., 2] = 7
  np.savez(
    tmp_path / "set.npz", train_images=images, train_labels=labels, test_images=test_images,
    test_labels=test_labels,
  )  # fmt: skip
  return str(tmp_path / "set.npz"), images


def test_each_channel_of_the_train_set_that_is_used_gets_mean_0_and_deviation_1(tmp_path):
  path, _ = npz(tmp_path)
  dataset = data.load("arrays", seed=0, dir=path, train_size=40, held_out=(4,))
  x = dataset.train.images * dataset.scale.astype(np.float64) + dataset.shift
  np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=1e-5)  # shift is rounded to float32
  np.testing.assert_allclose(x.std((0, 1, 2)), [1, 1, 0], atol=1e-5)  # the last is constant
  for constant in ("scale", "shift"):
    assert getattr(dataset.held_out, constant) is getattr(dataset, constant)


def test_settings_reach_the_changes_and_the_reading(tmp_path):
  path, images = npz(tmp_path)
  dataset = data.load(
    "arrays", seed=0, dir=path, image_size=None, cache_dir=None, memory_budget_mib=1.0,
    label_map=("parity",), noise_rate=0.5, balance=False,
  )  # fmt: skip
  assert dataset.class_names == ("even", "odd")
  assert (dataset.train.labels != dataset.train.clean).sum() == 50
  np.testing.assert_array_equal(dataset.train.images, images)


def test_every_source_takes_a_whole_config_with_none_for_what_it_does_not_use():
  names = ("dir", "image_size", "train_size", "test_size", "classes", "dim", "separation",
           "super_classes", "super_separation", "held_out", "label_map", "imbalance",
           "imbalance_ratio", "cache_dir")  # fmt: skip
  settings = dict.fromkeys(names) | {
    "balance": False, "noise_kind": "symmetric", "noise_rate": 0.0,
    "memory_budget_mib": 4096.0, "read_threads": 16,
  }  # fmt: skip
  for source in data.SOURCES.values():
    assert set(inspect.signature(source).parameters) <= settings.keys() | {"seed", "reading"}
  plain = data.load("digits", seed=0)
  whole = data.load("digits", seed=0, **settings)
  np.testing.assert_array_equal(whole.train.images, plain.train.images)
  assert whole.held_out is None


@pytest.mark.parametrize(
  "name, settings, line",
  [
    ("digits", {"dir": "/x"}, "config.data.dir = '/x', but the source 'digits' has no use for it"),
    ("digits", {"image_size": 8}, "config.data.image_size = 8"),
    ("mnist", {"separation": 2.0}, "config.data.separation = 2.0, but the source 'mnist'"),
  ],
)
def test_a_setting_that_the_source_has_no_use_for_is_refused(name, settings, line):
  with pytest.raises(UserError, match=line):
    data.load(name, seed=0, **settings)


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone():
  order = data.epoch_order(0, 3, 1000)
  np.testing.assert_array_equal(np.sort(order), np.arange(1000))
  np.testing.assert_array_equal(order, data.epoch_order(0, 3, 1000))
  assert (order != data.epoch_order(0, 4, 1000)).mean() > 0.9
  assert (order != data.epoch_order(1, 3, 1000)).mean() > 0.9


def test_a_set_fits_a_device_if_it_is_in_memory_and_small_enough(tmp_path):
  path, _ = npz(tmp_path)
  dataset = data.load("arrays", seed=0, dir=path)
  assert dataset.nbytes == 150 * 48 and not dataset.streamed
  assert dataset.fits(7200 / 2**20) and not dataset.fits(7199 / 2**20)
  splits = {"train": random_split(10, (4, 4, 1), 5), "test": random_split(5, (4, 4, 1), 5)}
  builder("mnist", tmp_path, splits).download_and_prepare()
  streamed = data.load("mnist", seed=0, dir=str(tmp_path), memory_budget_mib=0.0)
  assert streamed.nbytes == 15 * 16 and not streamed.fits(1024)


@needs_real("cifar10")
def test_cifar10_in_two_super_classes(tmp_path):
  dataset = data.load(
    "cifar10", seed=0, dir=str(REAL), cache_dir=str(tmp_path), memory_budget_mib=0.0,
    label_map=("animals_vehicles",), train_size=1000,
  )  # fmt: skip
  assert dataset.class_names == ("animal", "vehicle") and dataset.fine_names[6] == "frog"
  np.testing.assert_array_equal(np.bincount(dataset.train.fine), 100)
  np.testing.assert_array_equal(np.bincount(dataset.train.labels), [600, 400])
  np.testing.assert_array_equal(np.bincount(dataset.test.labels), [6000, 4000])
  # The published mean and deviation of CIFAR-10, within what 1,000 images tell.
  np.testing.assert_allclose(-dataset.shift / dataset.scale / 255, [0.491, 0.482, 0.446], atol=0.02)
  np.testing.assert_allclose(1 / dataset.scale / 255, [0.247, 0.244, 0.262], atol=0.02)
