import os
import pathlib

import numpy as np
import pytest

from nc_jax.errors import UserError
from nc_jax.training import data

REAL = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "../shared/data/tfds"))
needs_real = lambda name: pytest.mark.skipif(
  not (REAL / name).is_dir(), reason=f"no prepared {name} in {REAL} (set TFDS_DATA_DIR)"
)


def test_digits_are_bytes_that_stand_for_a_digit_plus_noise():
  digits = data.digits(None, 1500, 1500, seed=3)
  assert digits.train.images.shape == (1500, 10, 10, 1)
  assert digits.train.images.dtype == np.uint8 and digits.train.labels.dtype == np.int32
  assert digits.num_classes == 10
  x = digits.train.images * digits.scale + digits.shift  # 2 * (ink + noise) - 0.4
  # The border of the canvas is mostly paper: 2 * N(0, 0.1²) - 0.4.
  corner = x[:, 0, 0, 0]
  assert np.median(corner) == pytest.approx(-0.4, abs=0.03)
  assert np.std(x[:, 0, 0, 0][corner < 0.1]) == pytest.approx(0.2, rel=0.15)
  assert x.max() > 1.5  # ink 1 is shown as 1.6
  assert np.bincount(digits.train.labels, minlength=10).min() > 100


def test_train_and_test_digits_come_from_different_base_images():
  # Without noise and jitter every example must be one of the base digits of its own split.
  digits = data.digits(None, 400, 400, seed=0)
  from sklearn import datasets

  base = datasets.load_digits().images / 16.0

  def base_ids(split):
    ink = split.images[..., 0] / 255.0 * 2 - 0.5
    windows = np.lib.stride_tricks.sliding_window_view(ink, (8, 8), axis=(1, 2)).reshape(-1, 9, 64)
    flat = base.reshape(-1, 64)
    distance = (
      (windows**2).sum(-1)[..., None] - 2 * windows @ flat.T + (flat**2).sum(-1)
    )  # [N, places, base]
    return set(distance.min(1).argmin(1).tolist())

  train, test = base_ids(digits.train), base_ids(digits.test)
  assert len(train) > 250 and len(test) > 200
  # Noise can mistake a digit for its twin now and then; a shared pool would share a third.
  assert len(train & test) < 0.05 * len(train)


def test_the_same_seed_gives_the_same_digits_and_another_seed_others():
  first, again, other = (data.digits(None, 50, 50, seed).train.images for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert (first != other).mean() > 0.5


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone():
  order = data.epoch_order(0, 3, 1000)
  np.testing.assert_array_equal(np.sort(order), np.arange(1000))
  np.testing.assert_array_equal(order, data.epoch_order(0, 3, 1000))
  assert (order != data.epoch_order(0, 4, 1000)).mean() > 0.9
  assert (order != data.epoch_order(1, 3, 1000)).mean() > 0.9


def test_a_balanced_subset_is_balanced_and_too_large_a_one_is_refused():
  labels = np.repeat([0, 1, 2], [5, 7, 9])
  rng = np.random.default_rng(0)
  chosen = data._balanced(labels, 14, rng, "data.train_size")
  assert sorted(np.bincount(labels[chosen])) == [4, 5, 5]
  assert len(set(chosen)) == 14
  with pytest.raises(UserError, match=r"data.train_size = 16: .* at most 15"):
    data._balanced(labels, 16, rng, "data.train_size")


def test_a_data_set_that_is_not_prepared_says_what_was_looked_for_and_where(tmp_path):
  with pytest.raises(UserError, match="data.name = 'mnist': no prepared data in .*mnist"):
    data.SOURCES["mnist"](str(tmp_path), None, None, 0)
  (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
  with pytest.raises(UserError, match="could not be read as a prepared TFDS data set"):
    data.SOURCES["mnist"](str(tmp_path), None, None, 0)


def test_digits_have_no_folder():
  with pytest.raises(UserError, match="data.dir = '/x'"):
    data.digits("/x", None, None, 0)


@needs_real("mnist")
def test_mnist_is_read_without_tensorflow_and_normalised():
  mnist = data.SOURCES["mnist"](str(REAL), 5000, None, 0)
  assert mnist.train.images.shape == (5000, 28, 28, 1)
  assert mnist.test.images.shape == (10000, 28, 28, 1)
  np.testing.assert_array_equal(np.bincount(mnist.train.labels), 500)
  x = mnist.train.images * mnist.scale + mnist.shift
  assert x.mean() == pytest.approx(0, abs=1e-4) and x.std() == pytest.approx(1, abs=1e-4)
