"""Prepared sets that hold other than they say: what is told, in memory and streamed."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from nc_jax.errors import RunError
from nc_jax.training import data
from tests import fuzz
from tests.training.data.prepared_sets import builder, png, random_split, record, rewrite

SHAPE = (5, 6, 1)
BUDGETS = {"in memory": 1024.0, "streamed": 0.0}


@pytest.fixture
def folder(tmp_path):
  splits = {split: random_split(12, SHAPE, 3) for split in ("train", "test")}
  builder("mnist", tmp_path, splits).download_and_prepare()
  return tmp_path / "mnist" / "1.2.3"


def load(folder, budget=1024.0, **options):
  root = str(folder.parents[1])
  return data.load("mnist", seed=0, dir=root, memory_budget_mib=budget, **options)


def records(size=12, **changed):
  """Sound records, but for what is said of place 7."""
  images, labels = random_split(size, SHAPE, 3, seed=1)
  made = [(png(image), int(label)) for image, label in zip(images, labels, strict=True)]
  if changed:
    made[7] = changed.get("image", made[7][0]), changed.get("label", made[7][1])
  return [record(*each) for each in made]


def in_form(form, mode="L", size=(6, 5)):
  file = io.BytesIO()
  Image.new(mode, size).save(file, form)
  return file.getvalue()


PNG, JPEG = in_form("PNG"), in_form("JPEG")


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_shards_are_read_in_order(folder, budget):
  made = records()
  rewrite(folder, "train", [made[:5], made[5:6], made[6:]])
  images, labels = random_split(12, SHAPE, 3, seed=1)
  train = load(folder, budget).train
  np.testing.assert_array_equal(train.images[np.arange(12)], images)
  np.testing.assert_array_equal(train.labels, labels)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
@pytest.mark.parametrize(
  "promised, line",
  [
    ([5, 6], "6 examples can be read where dataset_info.json says 5"),
    ([7, 6], "6 examples can be read where dataset_info.json says 7"),
    ([6, 0], "6 examples can be read where dataset_info.json says 0"),
  ],
)
def test_other_numbers_of_examples_than_promised_are_told_with_the_file(
  folder, split, budget, promised, line
):
  made = records()
  files = rewrite(folder, split, [made[:6], made[6:]], promised)
  wrong = files[0 if promised[0] != 6 else 1]
  said = fuzz.refusal(lambda: load(folder, budget), f"{wrong.name}: {line}")
  assert said is not None


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_a_missing_or_truncated_shard_is_named(folder, budget):
  made = records()
  _, shard = rewrite(folder, "train", [made[:6], made[6:]])
  content = shard.read_bytes()
  for kept in (0, 10, 64 << 10, len(content) - 1, len(content) // 2):
    shard.write_bytes(content[:kept])
    assert fuzz.refusal(lambda: load(folder, budget), f"{shard.name}: ")
  shard.unlink()
  line = f"{shard.name}: [Errno 2] No such file"
  assert fuzz.refusal(lambda: load(folder, budget), line)


@pytest.mark.parametrize("label", [-1, 3, 2**31, 2**32, -(2**63)])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_a_label_of_no_class_is_told_with_its_example(folder, budget, split, label):
  rewrite(folder, split, [records(label=label)])
  line = f"{split} example 7: its label is {label} where there are 3 classes"
  assert fuzz.refusal(lambda: load(folder, budget), line)


@pytest.mark.parametrize(
  "image, line",
  [
    (b"", ""),
    (b"nothing known", "cannot identify image file"),
    (PNG[: len(PNG) // 2], ""),
    (PNG[:-20], ""),
    (JPEG[: len(JPEG) // 2], ""),
    (in_form("PNG", size=(5, 6)), r"its image is uint8 \[6, 5, 1\] where uint8 \[5, 6, 1\]"),
    (in_form("PNG", size=(1, 1)), r"its image is uint8 \[1, 1, 1\] where"),
    (in_form("PNG", "RGB"), r"its image is uint8 \[5, 6, 3\] where"),
    (in_form("PNG", "RGBA"), r"its image is uint8 \[5, 6, 4\] where"),
    (in_form("PNG", "LA"), r"its image is uint8 \[5, 6, 2\] where"),
  ],
  ids="empty unknown half cut jpeg turned small rgb rgba grey_alpha".split(),
)
def test_an_image_that_cannot_be_is_told_with_its_example(folder, image, line):
  for split in ("train", "test"):
    rewrite(folder, split, [records(image=image)])
    said = fuzz.refusal(lambda: load(folder), f"{split} example 7: ")
    assert re.search(line, said)
    # A streamed image is read when it is asked for, one of train for its mean too.
    with pytest.raises(RunError, match=f"{split} example 7: .*{line}") as refusal:
      getattr(load(folder, budget=0.0), split).images[np.arange(12)]
    assert "\n" not in str(refusal.value)
    rewrite(folder, split, [records()])


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_a_class_without_examples(folder, budget, split):
  images, labels = random_split(12, SHAPE, 3)
  kept = [(x, y) for x, y in zip(images, labels, strict=True) if y != 1]
  rewrite(folder, split, [[record(png(x), int(y)) for x, y in kept]])
  if split == "train":
    assert fuzz.refusal(lambda: load(folder, budget), "class 1 (class1) has no train example")
  else:
    assert set(load(folder, budget).test.labels) == {0, 2}


@pytest.mark.parametrize(
  "content, line",
  [
    (b"a\nb\n", "2 names where there are 3 classes"),
    (b"a\nb\nc\nd\n", "4 names where there are 3 classes"),
    (b"a\nb\na\n", "2 names where there are 3 classes"),
    (b"a\nb\n\xff\n", "can't decode byte 0xff"),
  ],
)
def test_other_names_than_classes_are_refused(folder, content, line):
  (folder / "label.labels.txt").write_bytes(content)
  said = fuzz.refusal(lambda: load(folder), "label.labels.txt: ")
  assert line in said


@pytest.mark.parametrize(
  "true, said, line",
  [
    ('"1"', '"1000000000000"', "tells of images uint8 [5, 6, 1000000000000]"),  # 30 TB, of TFDS
    ('"1"', '"0"', "tells of images uint8 [5, 6, 0]"),
    ('"1"', '"2"', "tells of images uint8 [5, 6, 2]"),
    ('"uint8"', '"uint16"', "tells of images uint16 [5, 6, 1]"),
    ('"5"', '"100000"', "example 0: its image is uint8 [5, 6, 1] where uint8 [100000, 6, 1]"),
    ("image_feature.Image", "text_feature.Text", "tells of no image with a class"),
    ('"numClasses": "3"', '"numClasses": "1000000000000"', "of 1000000000000 classes; 24 examples"),
  ],
)
def test_images_that_no_set_has_are_refused_before_one_is_made(folder, true, said, line):
  path = folder / "features.json"
  (folder / "label.labels.txt").unlink()
  text = path.read_text()
  assert text.count(true) == 1
  path.write_text(text.replace(true, said))
  for budget in BUDGETS.values():
    assert fuzz.refusal(lambda at=budget: load(folder, at), line)


def test_a_grey_image_is_grey_in_every_channel_where_the_set_says_three(folder):
  path = folder / "features.json"
  path.write_text(path.read_text().replace('"1"', '"3"'))
  coloured = in_form("PNG", "RGB")
  rewrite(folder, "train", [records(image=coloured)])
  images = load(folder).train.images
  np.testing.assert_array_equal(images[3], np.repeat(random_split(12, SHAPE, 3, 1)[0][3], 3, -1))
  assert not images[7].any()
