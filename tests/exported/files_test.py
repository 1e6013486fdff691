"""Sets of files: what agrees is one set, what is wrong is one clear sentence."""

import io

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from nc_jax.errors import UserError
from nc_jax.exported import files
from tests import fuzz
from tests.exported.sets import D, K, N, arrays, saved, whole, without_head


def refuse(paths, *words, sets=(), num_classes=None):
  """The files cannot be measured, and the one line that says so has these words."""
  with pytest.raises(UserError) as caught:
    examples = files.read([str(path) for path in paths])
    files.agree([*sets, examples], num_classes)
  message = str(caught.value)
  assert all(word in message for word in words), message
  assert "\n" not in message and len(message) < 400 and message.endswith(".")


def test_npy_files_find_their_companions(tmp_path):
  made, more = arrays(), without_head(seed=1)
  for name, array in made.items():
    np.save(tmp_path / f"train_{name}_0.npy", array)
  for name, array in more.items():
    np.save(tmp_path / f"train_{name}_1.npy", array)
  given = [tmp_path / "train_features_0.npy", tmp_path / "train_features_1.npy"]
  for paths in (given, sorted(tmp_path.glob("*.npy"))):  # the shell's *.npy means the same
    examples = files.read(map(str, paths))
    features, labels = whole(examples)
    np.testing.assert_array_equal(features, np.concatenate([made["features"], more["features"]]))
    np.testing.assert_array_equal(labels, np.concatenate([made["labels"], more["labels"]]))
    np.testing.assert_array_equal(files.agree([examples]).weight, made["weight"])


def test_the_head_may_lie_in_any_file_but_there_is_one(tmp_path):
  head = {name: arrays()[name] for name in ("weight", "bias")}
  np.savez(tmp_path / "a.npz", **without_head())
  np.savez(tmp_path / "b.npz", **without_head(seed=1), **head)
  np.savez(tmp_path / "head.npz", **head)
  np.savez(tmp_path / "other.npz", weight=head["weight"] + 1, bias=head["bias"])
  a, b, alone, other = (tmp_path / f"{name}.npz" for name in ("a", "b", "head", "other"))
  for paths in ([a, b], [b, a], [a, alone], [alone, b, a]):
    examples = files.read(paths)
    assert files.agree([examples]).bias is not None
    assert len(examples.shards) == sum(path != alone for path in paths)
  refuse([b, other], "b.npz and", "other.npz hold different `weight`")
  refuse([a, other], "different `weight`", sets=[files.read([b])])
  refuse([alone], "no `features` and `labels` in")
  assert files.agree([files.read([a]), files.read([b])]).bias is not None


BAD = {
  "no labels": (dict(labels=None, logits=np.zeros(3)), ["lacks `labels`", "weight, bias, logits"]),
  "nothing known": (
    dict(features=None, labels=None, weight=None, bias=None, x=np.zeros(3), y=np.zeros(3)),
    ["lacks `features` and `labels`; it holds x, y"],
  ),
  "images": (dict(features=np.zeros((N, 2, 2, 3))), ["[N, D]", "[23, 2, 2, 3]", "flatten"]),
  "no columns": (dict(features=np.zeros((N, 0))), ["must have columns"]),
  "complex": (dict(features=np.zeros((N, D), complex)), ["real numbers", "complex128"]),
  "text": (dict(features=np.full((N, D), "a")), ["real numbers", "<U1"]),
  "bfloat16": (dict(features=np.zeros((N, D), "V2")), ["bfloat16, perhaps"]),
  "objects": (dict(features=np.full((N, D), None)), ["pickled objects", "stay unread"]),
  "too few labels": (dict(labels=np.zeros(N - 1, int)), ["[N] = [23]", "got [22]"]),
  "one-hot": (dict(labels=np.eye(K, dtype=int)[np.zeros(N, int)]), ["got [23, 4]", "argmax(1)"]),
  "column of labels": (dict(labels=np.zeros((N, 1), int)), ["got [23, 1]", "ravel()"]),
  "float labels": (dict(labels=np.zeros(N)), ["must be integers; got dtype float64", "; .astype("]),
  "half a label": (dict(labels=np.full(N, 0.5)), ["float64 in", "a.npz."]),
  "infinite label": (dict(labels=np.full(N, np.inf)), ["float64 in", "a.npz."]),
  "bool labels": (dict(labels=np.zeros(N, bool)), ["dtype bool", "; .astype(int) makes"]),
  "negative label": (dict(labels=np.arange(N) % K - 1), ["[0, 4)", "got -1 in row 0", "6 of 23"]),
  "label beyond weight": (dict(labels=np.arange(N) % 5), ["[0, 4)", "got 4 in row 4", "weight"]),
  "huge label": (dict(labels=np.full(N, 2**63, "u8")), ["got 9223372036854775808 in row 0"]),
  "ids": (
    dict(labels=np.arange(N) + 10**9, weight=None, bias=None),
    ["class indices", "reach 1000000022 in", "only 23 differ", "--num_classes"],
  ),
  "transposed": (dict(weight=np.zeros((D, K))), ["[K, 6]", "got [6, 4]", "transposed", "weight.T"]),
  "wide weight": (dict(weight=np.zeros((K, 99))), ["[K, D] = [K, 6]", "got [4, 99]"]),
  "no rows": (dict(weight=np.zeros((0, D))), ["[K, D] = [K, 6]", "got [0, 6]"]),
  "small weight": (dict(weight=np.full((K, D), 1e-19)), ["weight is too small", "--float64"]),
  "large weight": (dict(weight=np.full((K, D), 1e20)), ["24 of 24", "; --float64 takes such"]),
  "wrong bias": (dict(bias=np.zeros(K + 1)), ["[K] = [4]", "got [5]"]),
  "bias alone": (dict(weight=None), ["holds `bias`", "no `weight`"]),
  "nan weight": (dict(weight=np.full((K, D), np.nan)), ["weight must be finite", "24 of 24"]),
  "text weight": (dict(weight=np.full((K, D), "a")), ["weight must hold real numbers"]),
  "no examples": (dict(features=np.zeros((0, D)), labels=np.zeros(0, int)), ["no example in"]),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_arrays_are_named(tmp_path, name):
  changes, words = BAD[name]
  for save in (np.savez, np.savez_compressed):
    save(tmp_path / "a.npz", **arrays(**changes))
    refuse([tmp_path / "a.npz"], "a.npz", *words)


def test_sets_that_disagree_are_named(tmp_path):
  good = saved(tmp_path / "good.npz", **arrays())
  wide = saved(tmp_path / "wide.npz", features=np.zeros((3, D + 1)), labels=np.zeros(3, int))
  refuse([good, wide], "one width", "[23, 6]", "[3, 7]", "wide.npz")
  refuse([wide], "one width", "D = 6 in", "D = 7 in", sets=[files.read([good])])
  refuse([good, good], "given twice")
  refuse([good], "--num_classes = 5", "4 rows", num_classes=5)
  alone = saved(tmp_path / "alone.npz", **without_head())
  refuse([alone], "[0, 3), by --num_classes; got 3", num_classes=3)


@fuzz.search(100)
@hypothesis.given(st.data())
def test_a_damaged_npy_header_is_no_accident(tmp_path_factory, data):
  folder = tmp_path_factory.getbasetemp()
  np.save(folder / "labels.npy", arrays()["labels"])
  file = io.BytesIO()
  np.save(file, arrays()["features"])
  raw = bytearray(file.getvalue())
  for _ in range(data.draw(st.integers(1, 3))):
    raw[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
  (folder / "features.npy").write_bytes(raw)
  try:
    examples = files.read([str(folder / "features.npy")])
    assert whole(examples)[0].shape == (N, D)
  except UserError as error:
    assert str(folder) in str(error) and "\n" not in str(error)


def test_what_torch_exports_is_read(tmp_path):
  torch = pytest.importorskip("torch")
  model = torch.nn.Linear(D, K)
  features, labels = torch.randn(N, D, requires_grad=True), torch.arange(N) % K
  np.savez(
    tmp_path / "a.npz", features=features.detach().cpu().numpy(), labels=labels.numpy(),
    weight=model.weight.detach().numpy(), bias=model.bias.detach().numpy(),
  )  # fmt: skip
  examples = files.read([str(tmp_path / "a.npz")])
  np.testing.assert_array_equal(whole(examples)[0], features.detach().numpy())
  assert files.agree([examples]).num_classes == K
