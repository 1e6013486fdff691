"""The same index array gathers the same examples, wherever these lie."""

import numpy as np
import pytest

from nc_jax.training.data import Split
from nc_jax.training.data.streaming import StreamedImages
from nc_jax.training.feeds import Feed

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 3, 2, 1), dtype=np.uint8)
LABELS = RNG.integers(0, 5, 60).astype(np.int32)
INDEX = RNG.integers(0, 60, (3, 4, 5)).astype(np.int32)  # [T, L, B]


def gathered(feed, index):
  """What the program of each device and step sees: images and labels [T, L, B, ...]."""
  images, labels, index = feed(index)
  if feed.axis is None:
    return np.asarray(images)[index], np.asarray(labels)[index]
  steps, devices, _ = index.shape
  pick = lambda array: np.stack(
    [[array[device][index[step, device]] for device in range(devices)] for step in range(steps)]
  )
  return pick(images), pick(labels)


def streamed(read=lambda id_: IMAGES[id_]):
  return Split(StreamedImages(read, np.arange(60), (3, 2, 1), threads=2), LABELS)


@pytest.mark.parametrize("where", ["devices", "host", "disk"])
def test_every_device_and_step_sees_the_examples_of_its_index(where):
  split = streamed() if where == "disk" else Split(IMAGES, LABELS)
  images, labels = gathered(Feed(split, resident=where == "devices"), INDEX)
  np.testing.assert_array_equal(images, IMAGES[INDEX])
  np.testing.assert_array_equal(labels, LABELS[INDEX])


def test_a_restart_reads_nothing_of_what_lies_before():
  read = []
  feed = Feed(streamed(lambda id_: read.append(id_) or IMAGES[id_]), resident=False)
  feed(INDEX[2:])
  assert sorted(read) == sorted(INDEX[2].ravel().tolist())


def test_a_process_reads_its_own_share_alone():
  read = []
  feed = Feed(streamed(lambda id_: read.append(id_) or IMAGES[id_]), resident=False)
  images, _ = gathered(feed, INDEX[:, 2:])
  np.testing.assert_array_equal(images, IMAGES[INDEX[:, 2:]])
  assert sorted(read) == sorted(INDEX[:, 2:].ravel().tolist())


@pytest.mark.parametrize("resident", [True, False])
def test_other_labels_of_the_same_images(resident):
  feed = Feed(Split(IMAGES, LABELS), resident)
  other = feed.relabelled((LABELS + 1) % 5)
  images, labels = gathered(other, INDEX)
  np.testing.assert_array_equal(images, IMAGES[INDEX])
  np.testing.assert_array_equal(labels, (LABELS[INDEX] + 1) % 5)
  np.testing.assert_array_equal(gathered(feed, INDEX)[1], LABELS[INDEX])
  if resident:
    assert other(INDEX)[0] is feed(INDEX)[0]  # not a second copy on the devices
