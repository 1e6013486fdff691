import jax
import numpy as np
import pytest

from nc_jax.training.data.augment import augment

KEYS = jax.random.split(jax.random.key(0), 64)


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).integers(1, 256, (64, 7, 6, 2), dtype=np.uint8)


@pytest.fixture(scope="module")
def augmented(images):
  return {mode: np.asarray(augment(images, KEYS, mode)) for mode in ("reflect", "zero")}


def crops(image, mode):
  """Every crop of a padded image and its mirror image: {bytes: (top, left, flipped)}."""
  padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), "constant" if mode == "zero" else mode)
  height, width, _ = image.shape
  found = {}
  for top in range(9):
    for left in range(9):
      crop = padded[top : top + height, left : left + width]
      found[crop.tobytes()] = (top, left, False)
      found[crop[:, ::-1].tobytes()] = (top, left, True)
  return found


@pytest.mark.parametrize("mode", ["reflect", "zero"])
def test_every_image_becomes_a_crop_of_itself(images, augmented, mode):
  assert augmented[mode].shape == images.shape and augmented[mode].dtype == np.uint8
  assert all(b.tobytes() in crops(a, mode) for a, b in zip(images, augmented[mode], strict=True))


def test_all_crops_and_flips_occur(images, augmented):
  # Padding by reflection could not tell them: mirrored windows are windows of the reflection.
  pairs = zip(images, augmented["zero"], strict=True)
  drawn = [crops(a, "zero")[b.tobytes()] for a, b in pairs]
  tops, lefts, flips = map(np.array, zip(*drawn, strict=True))
  # 64 draws of nine values: one value is absent with chance 9 (8/9)^64 = 0.005, here it is not.
  assert set(tops) == set(lefts) == set(range(9))
  assert 16 < flips.sum() < 48


def test_a_place_of_the_batch_has_its_image_whatever_it_is_batched_with(images, augmented):
  alone = augment(images[48:], KEYS[48:])
  np.testing.assert_array_equal(alone, augmented["reflect"][48:])
