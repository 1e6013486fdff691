"""Whatever a prepared set or a label map says: the examples as they are, or one clear sentence."""

import copy
import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from nc_jax.errors import RunError, UserError
from nc_jax.training import data
from nc_jax.training.data.label_maps import TABLES, coarse_map
from tests import fuzz
from tests.training.data.prepared_sets import builder, png, random_split, record, rewrite

SHAPE = (5, 6, 1)
SPLIT = random_split(6, SHAPE, 2)
IMAGE = png(SPLIT[0][0])
OPTIONS = st.sampled_from([{}, {"memory_budget_mib": 0.0}, {"image_size": 5}])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("prepared")
  builder("mnist", root, {"train": SPLIT, "test": SPLIT}).download_and_prepare()
  folder = root / "mnist" / "1.2.3"
  made = [record(png(image), int(label)) for image, label in zip(*SPLIT, strict=True)]
  for split in ("train", "test"):
    rewrite(folder, split, [made])
  return folder


def load(folder, options):
  """The set, every image read. A streamed image that cannot be is told by a RunError."""
  try:
    dataset = data.load("mnist", seed=0, dir=str(folder.parents[1]), **options)
    every = lambda split: split.images[np.arange(len(split))]
    return dataset, every(dataset.train), every(dataset.test)
  except RunError as error:
    raise UserError(str(error)) from error


ODD = st.one_of(
  st.none() | st.booleans() | st.integers(-2, 7) | st.integers() | st.floats(),
  st.sampled_from(["0", "-1", "1", "2", "3", "5", "6", "1000000000000", "18446744073709551616"]),
  st.sampled_from(["train", "test", "tfrecord", "uint8", "uint16", "float32", "int64", "string"]),
  st.sampled_from(["{SPLIT}", "../../x", "os.system", "nc_jax.main"]),
  st.sampled_from("text_feature.Text video_feature.Video sequence_feature.Sequence".split()).map(
    lambda kind: f"tensorflow_datasets.core.features.{kind}"
  ),
  st.text(max_size=3) | st.just([]) | st.just({}) | st.just(["1"]),
)


def places(value, at=()):
  """Where in nested JSON something stands."""
  entries = value.items() if isinstance(value, dict) else ()
  entries = enumerate(value) if isinstance(value, list) else entries
  for key, entry in entries:
    yield (*at, key)
    yield from places(entry, (*at, key))


@st.composite
def mutated(draw, text):
  """JSON of which something is left out, doubled, renamed or another, or a letter or two is."""
  value = json.loads(text)
  for _ in range(draw(st.integers(0, 2))):
    *at, key = draw(st.sampled_from([*places(value)] or [("",)]))
    inner = value
    for step in at:
      inner = inner[step]
    what = draw(st.sampled_from("other other out twice renamed".split()))
    if what == "twice" and isinstance(inner, list):
      inner.append(copy.deepcopy(inner[key]))
    elif what == "renamed" and isinstance(inner, dict) and key in inner:
      inner[draw(st.sampled_from(["", "names", "shape"]))] = inner.pop(key)
    elif what == "out" and (isinstance(inner, list) or key in inner):
      del inner[key]
    else:
      inner[key] = copy.deepcopy(draw(ODD))
  text = json.dumps(value)
  if draw(st.integers(0, 3)) == 0:
    place, length = draw(st.integers(0, len(text))), draw(st.integers(0, 4))
    text = text[:place] + draw(st.text(max_size=2)) + text[place + length :]
  return text.encode("utf-8", "surrogatepass")


@fuzz.search(150)
@hypothesis.given(st.data(), st.sampled_from(["features.json", "dataset_info.json"]), OPTIONS)
def test_any_metadata_are_those_of_the_examples_or_refused(folder, data, name, options):
  path = folder / name
  true = path.read_text()
  path.write_bytes(data.draw(mutated(true)))
  found = []
  try:
    said = fuzz.refusal(lambda: found.append(load(folder, options)))
  finally:
    path.write_text(true)
  if found:
    ((dataset, train, test),) = found
    for split, images in ((dataset.train, train), (dataset.test, test)):
      np.testing.assert_array_equal(split.labels, SPLIT[1])
      if "image_size" not in options:  # a grey image is grey in three channels too
        np.testing.assert_array_equal(images, np.broadcast_to(SPLIT[0], images.shape))
  else:
    assert str(folder) in said or "config.data" in said or name in said, said


RECORDS = st.one_of(
  st.binary(max_size=40),
  st.builds(record, st.binary(max_size=40) | st.just(IMAGE), st.integers(-2, 3)),
  # A sound record or image of which some bytes are others.
  st.builds(
    lambda raw, place, byte: raw[:place] + byte + raw[place + len(byte) :],
    st.just(record(IMAGE, 0)),
    st.integers(0, len(record(IMAGE, 0))),
    st.binary(max_size=3),
  ),
  st.builds(
    lambda place, byte: record(IMAGE[:place] + byte + IMAGE[place + len(byte) :], 1),
    st.integers(0, len(IMAGE)),
    st.binary(max_size=3),
  ),
)


@fuzz.search(60)
@hypothesis.given(RECORDS, OPTIONS, st.sampled_from(["train", "test"]))
def test_any_record_is_an_example_or_refused_by_its_place(folder, odd, options, split):
  made = [record(png(image), int(label)) for image, label in zip(*SPLIT, strict=True)]
  rewrite(folder, split, [[*made, odd]])
  found = []
  try:
    said = fuzz.refusal(lambda: found.append(load(folder, options)))
  finally:
    rewrite(folder, split, [made])
  if found:
    dataset = found[0][0]
    assert getattr(dataset, split).labels[-1] in (0, 1)
  else:
    assert f"{split} example 6" in said, said


@fuzz.search(60)
@hypothesis.given(st.data(), OPTIONS)
def test_a_damaged_shard_is_read_as_it_was_or_refused(folder, data, options):
  (path,) = folder.glob("*-train.array_record*")
  true = path.read_bytes()
  held = len(true.rstrip(b"\0"))
  place = data.draw(st.integers(0, held) | st.integers(0, len(true)), "place")
  byte = data.draw(st.binary(max_size=3), "bytes")
  cut = data.draw(st.booleans(), "cut")
  path.write_bytes(true[:place] if cut else true[:place] + byte + true[place + len(byte) :])
  found = []
  try:
    said = fuzz.refusal(lambda: found.append(load(folder, options)))
  finally:
    path.write_bytes(true)
  if found:
    dataset, train, _ = found[0]
    np.testing.assert_array_equal(dataset.train.labels, SPLIT[1])
    if "image_size" not in options:
      np.testing.assert_array_equal(train, SPLIT[0])
  else:
    assert path.name in said or "train example" in said, said


NAMES = st.lists(st.text(max_size=4) | st.sampled_from("bird car ship".split()), min_size=2,
                 max_size=6, unique=True).map(tuple)  # fmt: skip
ENTRIES = (
  st.integers(-1, 6)
  | st.integers()
  | st.booleans()
  | st.text(max_size=4)
  | st.sampled_from([*TABLES, "parity", "halves", "groups_of_0", "groups_of_2", "groups_of_", "a"])
)


@fuzz.search(300)
@hypothesis.given(NAMES, st.lists(ENTRIES, max_size=6) | st.lists(st.integers(0, 3), max_size=6))
def test_any_label_map_gives_every_class_a_coarse_label_or_is_refused(names, label_map):
  found = []
  call = lambda: found.append(coarse_map(tuple(label_map), names))
  if fuzz.refusal(call, "config.data.label_map = ") is None:
    ((coarse, coarse_names),) = found
    assert coarse.dtype == np.int32 and coarse.shape == (len(names),)
    assert set(coarse) == set(range(len(coarse_names)))
    assert len(set(coarse_names)) == len(coarse_names)
