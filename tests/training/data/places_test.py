"""A place where no data set can be read: one line that says which, and why."""

import contextlib
import os
import pathlib
import tempfile

import numpy as np
import pytest
from PIL import Image

from nc_jax.training import data
from tests import fuzz
from tests.training.data.prepared_sets import builder, random_split

NOBODY = 65534


@pytest.fixture
def open_folder():
  """A folder that every user may read, with all that is made in it."""
  with tempfile.TemporaryDirectory() as name:
    os.chmod(name, 0o755)
    yield pathlib.Path(name)


@contextlib.contextmanager
def locked(path):
  """Nobody may read this, and is who we are: root could read it nevertheless."""
  mode, user = path.stat().st_mode, os.geteuid()
  os.chmod(path, 0)
  try:
    if user == 0:
      os.seteuid(NOBODY)
  except OSError as error:
    os.chmod(path, mode)
    pytest.skip(f"Another user cannot be had: {error}")
  try:
    yield
  finally:
    os.seteuid(user)
    os.chmod(path, mode)


def refused(name, place, *words):
  said = fuzz.refusal(lambda: data.load(name, seed=0, dir=str(place)), *words)
  assert said is not None
  return said


def test_a_place_without_the_set_says_what_was_looked_for(tmp_path):
  (tmp_path / "file").write_text("")
  (tmp_path / "other/cifar10/1.0.0").mkdir(parents=True)
  (tmp_path / "form/mnist/1.0.0").mkdir(parents=True)
  (tmp_path / "form/mnist/1.0.0/dataset_info.json").write_text('{"fileFormat": "tfrecord"}')
  (tmp_path / "name/mnist/new").mkdir(parents=True)
  (tmp_path / "stray/mnist").mkdir(parents=True)
  (tmp_path / "stray/mnist/1.0.0").write_text("")
  for place in ("absent", "file", "other", "form", "name", "stray"):
    refused("mnist", tmp_path / place, f"no prepared data in {tmp_path / place}/mnist")
  for name, line in (("folder", "there is no folder"), ("arrays", "there is no file")):
    refused(name, tmp_path / "absent", line, str(tmp_path / "absent"))
  refused("folder", tmp_path / "file", f"there is no folder {tmp_path}/file/train")
  refused("arrays", tmp_path / "other", f"{tmp_path}/other is not a file")


@pytest.mark.parametrize("name", ["mnist", "folder", "arrays"])
def test_a_path_that_no_file_can_have_is_refused(name):
  refused(name, "a\0b", "'a\\x00b' is no path: it holds a null byte")
  refused(name, "a" * 300, "ile name too long")
  refused(name, "~nobody_of_this_name/x", "home directory")


def test_links_that_lead_to_themselves_are_named(tmp_path):
  loop = tmp_path / "loop"
  loop.symlink_to("loop")
  refused("mnist", loop, f"{loop}/mnist cannot be read: Too many levels of symbolic links")
  refused("folder", loop, f"there is no folder {loop}/train")
  refused("arrays", loop, f"{loop} cannot be read", "Too many levels of symbolic links")
  for place in ("mnist", "mnist/1.0.0"):
    link = tmp_path / place
    link.symlink_to(link.name)
    refused("mnist", tmp_path, str(link), "Too many levels of symbolic links")
    link.unlink()
    link.mkdir()
  for split in ("train", "test"):
    (tmp_path / split / "a").mkdir(parents=True)
    (tmp_path / split / "a" / "1.png").symlink_to("1.png")
  refused("folder", tmp_path, f"{tmp_path}/train/a/1.png: ", "Too many levels of symbolic links")


def test_what_may_not_be_read_is_named(open_folder):
  splits = {split: random_split(6, (4, 4, 1), 2) for split in ("train", "test")}
  builder("mnist", open_folder, splits).download_and_prepare()
  data.load("mnist", seed=0, dir=str(open_folder))  # what is imported then, nobody may not
  version = open_folder / "mnist" / "1.2.3"
  (shard,) = version.glob("*-train*")
  for path, told in (
    (version.parent, version.parent),
    (version, version / "dataset_info.json"),
    (version / "dataset_info.json", version / "dataset_info.json"),
    (version / "features.json", version / "features.json"),
    (version / "label.labels.txt", "label.labels.txt"),
    (shard, shard.name),
  ):
    with locked(path):
      refused("mnist", open_folder, str(told), "Permission denied")
  for split in ("train", "test"):
    (open_folder / split / "a").mkdir(parents=True)
    Image.new("L", (4, 4)).save(open_folder / split / "a" / "1.png")
  for place in ("train", "test", "train/a", "test/a", "train/a/1.png"):
    with locked(open_folder / place):
      refused("folder", open_folder, str(open_folder / place), "Permission denied")
  np.savez(open_folder / "set.npz", x=np.zeros(3))
  with locked(open_folder / "set.npz"):
    refused("arrays", open_folder / "set.npz", "set.npz may not be read by this user")
