import numpy as np
import pytest

from nc_jax.errors import RunError
from nc_jax.training.data.sets import normalisation
from nc_jax.training.data.streaming import StreamedImages


def stream(size=50, threads=3):
  """Streamed images, the array that they stand for, and the list of what was read."""
  rng = np.random.default_rng(0)
  images, read = rng.integers(0, 256, (size, 3, 2, 1), dtype=np.uint8), []

  def read_one(id_):
    read.append(id_)
    return images[id_]

  return StreamedImages(read_one, np.arange(size), (3, 2, 1), threads), images, read


@pytest.mark.parametrize("threads", [0, 1, 7])
def test_any_number_of_threads_gives_the_same_images_in_order(threads):
  lazy, images, _ = stream(threads=threads)
  ids = np.random.default_rng(1).integers(0, 50, (2, 40))
  np.testing.assert_array_equal(lazy[ids], images[ids])
  assert lazy[ids].dtype == lazy.dtype == np.uint8


def test_just_what_is_asked_for_is_read():
  lazy, images, read = stream()
  lazy[np.array([7, 3, 7])]
  assert sorted(read) == [3, 7, 7]


def test_it_has_the_measures_of_the_array_and_can_be_cut_like_it():
  lazy, images, _ = stream()
  assert (len(lazy), lazy.shape, lazy.nbytes) == (50, images.shape, images.nbytes)
  cut = lazy.take(np.array([5, 1, 30])).take(np.array([2, 0]))
  np.testing.assert_array_equal(cut[np.arange(2)], images[[30, 5]])


def test_its_normalisation_is_that_of_an_even_sample():
  lazy, images, read = stream(3000)
  scale, shift = normalisation(lazy)
  assert len(read) == 1024 and min(read) == 0 and max(read) == 2999
  np.testing.assert_array_equal((scale, shift), normalisation(images[np.sort(read)]))


@pytest.mark.parametrize("threads", [0, 2])
def test_an_image_that_cannot_be_read_is_named(threads):
  def read(id_):
    if id_ == 13:
      raise OSError("the disk is gone\nmore")
    return np.zeros((1, 1, 1), np.uint8)

  lazy = StreamedImages(read, np.arange(20), (1, 1, 1), threads)
  with pytest.raises(RunError, match="^Image 13 could not be read: the disk is gone$"):
    lazy[np.arange(20)]
