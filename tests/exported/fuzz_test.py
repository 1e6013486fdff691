"""Whatever lies in a features file: NumPy's numbers of it, or one clear sentence; no third."""

import io
import pathlib
import pickle
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nc_jax import npz
from nc_jax.exported import arrays, batches, files
from tests import fuzz
from tests.exported import sets

WHOLE = "i1 i2 >i4 i8 u1 u2 u4 >u8".split()
NUMBERS = [*WHOLE, *"f2 f4 >f4 f8 >f8 g".split()]
OTHERS = ["?", "c8", "S3", "U2", "S0", "M8[s]", "m8[s]", "V2", "i4,f4", "(2,)f4", "O"]
PACKINGS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
N, D, K = 3, 2, 3
SHAPES = {"features": (N, D), "labels": (N,), "weight": (K, D), "bias": (K,)}


class Touch:
  """Its pickle makes a file where it is loaded."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


def measured(paths):
  """What a pass sees of the files: features, labels and the head."""
  examples = files.read([str(path) for path in paths])
  agreed = files.agree([examples])
  seen = [
    (batch.features[batch.mask], batch.labels[batch.mask])
    for batch in batches.batches_of(examples, 2)
  ]
  return *map(np.concatenate, zip(*seen, strict=True)), agreed


@st.composite
def made_up(draw, name):
  """An array of this name: as it should be most of the time, of any kind otherwise."""
  wild = draw(st.integers(0, 7)) == 0
  dtype = np.dtype(draw(st.sampled_from(NUMBERS + OTHERS * wild)))
  if name == "labels" and not wild:
    dtype = np.dtype(draw(st.sampled_from(WHOLE)))
  shape = SHAPES[name]
  if wild and draw(st.booleans()):
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
  low = -1 if wild and dtype.kind not in "u" else 0
  numbers = draw(hnp.arrays(np.int8, shape, elements=st.integers(low, K - 1)))
  made = np.full(shape, None) if dtype.hasobject else np.zeros(shape, dtype)
  if dtype.kind in "fiu?c" and dtype.subdtype is None:
    made[...] = numbers
  return np.asarray(made, order=draw(st.sampled_from("CF")))


def sound(found):
  """Whether these arrays of one file can be measured, said again in NumPy's words."""
  real = lambda name: found[name].dtype.kind in "iuf"
  shape = lambda name: found[name].shape if name in found else None
  if shape("features") is None or shape("labels") is None or not real("features"):
    return False
  if len(shape("features")) != 2 or shape("features")[1] == 0:
    return False
  if shape("labels") != shape("features")[:1] or found["labels"].dtype.kind not in "iu":
    return False
  if "weight" in found:
    if (
      not real("weight") or len(shape("weight")) != 2 or shape("weight")[1] != shape("features")[1]
    ):
      return False
  if "bias" in found:
    if not real("bias") or "weight" not in found or shape("bias") != shape("weight")[:1]:
      return False
  classes = len(found["weight"]) if "weight" in found else K
  return all(0 <= label < classes for label in found["labels"])


def npy(array):
  file = io.BytesIO()
  np.save(file, array, allow_pickle=True)
  return file.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@fuzz.search(150)
@hypothesis.given(st.data())
def test_any_arrays_are_measured_as_numpy_reads_them_or_refused(tmp_path_factory, data):
  folder = tmp_path_factory.getbasetemp() / "made_up"
  folder.mkdir(exist_ok=True)
  names = data.draw(st.sets(st.sampled_from(list(SHAPES)), min_size=2), "names")
  names |= data.draw(st.sampled_from([set(), {"features", "labels"}]))
  found = {name: data.draw(made_up(name), name) for name in SHAPES if name in names}
  if data.draw(st.booleans(), "npz"):
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
      for name, array in found.items():
        for _ in range(data.draw(st.sampled_from([1, 1, 1, 2]))):  # a name may stand twice
          wide = data.draw(st.booleans())
          info = zipfile.ZipInfo(name + data.draw(st.sampled_from([".npy"] * 3 + [""])))
          info.compress_type = data.draw(st.sampled_from(PACKINGS))
          with archive.open(info, "w", force_zip64=wide) as member:
            member.write(npy(array))
    path = folder / "a.npz"
    hypothesis.assume(any(name.endswith(".npy") for name in zipfile.ZipFile(path).namelist()))
  else:
    hypothesis.assume("features" in names)
    for old in folder.glob("*.npy"):
      old.unlink()
    for name, array in found.items():
      (folder / f"a_{name}.npy").write_bytes(npy(array))
    path = folder / "a_features.npy"

  if not sound(found) or not len(found["labels"]):
    assert fuzz.refusal(lambda: measured([path]), str(folder)) is not None
    return
  features, labels, agreed = measured([path])
  np.testing.assert_array_equal(features, found["features"].astype(np.float32))
  np.testing.assert_array_equal(labels, found["labels"])
  for name in ("weight", "bias"):
    np.testing.assert_array_equal(getattr(agreed, name), found.get(name))


@fuzz.search(60)
@hypothesis.given(
  st.lists(st.fixed_dictionaries({n: made_up(n) for n in ("features", "labels")}), max_size=3)
)
def test_shards_make_one_set_or_are_told_apart(tmp_path_factory, shards):
  folder = tmp_path_factory.getbasetemp()
  paths = [folder / f"shard{i}.npz" for i in range(len(shards))]
  for path, made in zip(paths, shards, strict=True):
    np.savez(path, **made)
  all_sound = all(map(sound, shards))
  if (
    not all_sound
    or len({made["features"].shape[1] for made in shards}) != 1
    or not any(len(made["labels"]) for made in shards)
  ):
    assert fuzz.refusal(lambda: measured(paths)) is not None
    return
  features, labels, _ = measured(paths)
  join = lambda name, dtype: np.concatenate([made[name].astype(dtype) for made in shards])
  np.testing.assert_array_equal(features, join("features", np.float32))
  np.testing.assert_array_equal(labels, join("labels", np.int32))


def header(shape, descr="<f4", order=False):
  """The beginning of an .npy file, whatever it claims."""
  text = repr({"descr": descr, "fortran_order": order, "shape": shape}).encode("latin1")
  return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


LENGTHS = st.sampled_from([0, 1, 2, 3, -1, True, 2**31, 10**14, 2**62, 2**63, 2**70, 1.5, None])


@fuzz.search(150)
@hypothesis.given(
  st.lists(LENGTHS, max_size=4) | st.just([1] * 100),
  st.sampled_from(NUMBERS + OTHERS[:-1] + ["V0", "U0", "", "x", "<f99", ("<f4", (2**40,))]),
  st.sampled_from([True, False, 1, None]),
  st.sampled_from(list(SHAPES)),
  st.sampled_from(PACKINGS),
  st.integers(0, 30),
)
def test_a_shape_that_the_file_has_not_the_bytes_for_allocates_nothing(
  tmp_path_factory, shape, descr, order, name, packing, size
):
  path = tmp_path_factory.getbasetemp() / "claims.npz"
  good = sets.arrays(labels=np.arange(sets.N) % sets.K)
  with zipfile.ZipFile(path, "w", packing) as archive:
    for other, array in good.items():
      member = header(tuple(shape), descr, order) + bytes(size) if other == name else npy(array)
      archive.writestr(f"{other}.npy", member)
  fuzz.refusal(lambda: measured([path]))  # some of these are sound


@fuzz.search(150)
@hypothesis.given(
  st.binary(max_size=300), st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06", header((3, 2))[:9]])
)
def test_random_bytes_are_refused(tmp_path_factory, raw, magic):
  path = tmp_path_factory.getbasetemp() / "random_features.npy"
  path.write_bytes(magic + raw)
  assert fuzz.refusal(lambda: measured([path]), str(path)) is not None


def test_a_small_file_that_unfolds_beyond_memory_is_refused_unread(tmp_path, monkeypatch):
  with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
    with archive.open("features.npy", "w", force_zip64=True) as member:
      member.write(header((1 << 27, 1), "|i1"))
      for _ in range(128):
        member.write(bytes(1 << 20))
  monkeypatch.setattr(npz, "machine_memory", lambda: 1 << 26)
  said = fuzz.refusal(lambda: arrays.read(tmp_path / "bomb.npz", lambda size: None))
  assert "compressed and larger than memory" in said


@pytest.mark.parametrize("name", SHAPES)
def test_a_pickle_is_never_loaded(tmp_path, name):
  touched = tmp_path / "touched"
  bad = np.full(SHAPES[name], Touch(touched))
  pickle.loads(pickle.dumps(bad))
  assert touched.exists()  # so would it be here
  touched.unlink()
  good = {"features": np.zeros((N, D)), "labels": np.arange(N), "weight": np.zeros((K, D)),
          "bias": np.zeros(K)}  # fmt: skip
  for save in (np.savez, np.savez_compressed):
    save(tmp_path / "a.npz", **good | {name: bad})
    said = fuzz.refusal(lambda: measured([tmp_path / "a.npz"]), "pickled objects", "stay unread")
    assert said is not None
  for other, array in (good | {name: bad}).items():
    np.save(tmp_path / f"a_{other}.npy", array, allow_pickle=True)
  assert fuzz.refusal(lambda: measured([tmp_path / "a_features.npy"]), "stay unread") is not None
  (tmp_path / "b.npz").write_bytes(pickle.dumps(bad))
  assert fuzz.refusal(lambda: measured([tmp_path / "b.npz"]), "neither an .npz nor") is not None
  assert not touched.exists()
