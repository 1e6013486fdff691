"""The record of what a run was made with."""

import json

import jax
import pytest

from nc_jax import made_with


def read(folder):
  return json.loads((folder / made_with.RECORD).read_text())


def test_a_record_says_what_computes_and_grows_when_that_changes(tmp_path, monkeypatch):
  assert made_with.changes(tmp_path) is None  # nothing is known
  made_with.note(tmp_path)
  (first,) = read(tmp_path)
  assert first["jax"] == jax.__version__ and first["python"].startswith("3.")
  assert first["flax"] and first["optax"] and first["orbax-checkpoint"] and first["jaxlib"]
  assert (first["device"], first["devices"], first["processes"]) == ("cpu", 4, 1)
  before = (tmp_path / made_with.RECORD).read_bytes()
  made_with.note(tmp_path)
  assert (tmp_path / made_with.RECORD).read_bytes() == before

  monkeypatch.setattr(jax, "devices", lambda: [jax.local_devices()[0]] * 2)
  assert made_with.changes(tmp_path) == "What is there was made with devices 4 (now 2)."
  made_with.note(tmp_path)
  assert [entry["devices"] for entry in read(tmp_path)] == [4, 2] and read(tmp_path)[0] == first
  assert made_with.changes(tmp_path) is None

  monkeypatch.undo()
  (tmp_path / made_with.RECORD).write_text(json.dumps([first | {"jax": "0.1", "tpu": "x"}]))
  expected = f"What is there was made with jax 0.1 (now {jax.__version__}), tpu x (now None)."
  assert made_with.changes(tmp_path) == expected


@pytest.mark.parametrize("text", ["[{", "{}", "[1]"])
def test_a_broken_record_is_named_and_begun_anew(text, tmp_path):
  (tmp_path / made_with.RECORD).write_text(text)
  assert "versions.json is not readable and begins anew" in made_with.changes(tmp_path)
  made_with.note(tmp_path)
  assert len(read(tmp_path)) == 1 and made_with.changes(tmp_path) is None


def test_a_package_that_is_not_installed_is_left_out(monkeypatch):
  monkeypatch.setattr(made_with, "PACKAGES", ("jax", "no-such-package"))
  assert made_with.versions().keys() == {"python", "jax"}
