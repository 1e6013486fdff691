"""The command that prepares data sets; TFDS does its work for real, on tiny sets."""

import os
import pathlib
import subprocess
import sys

import pytest
import requests
import tensorflow_datasets as tfds

from nc_jax import prepare
from nc_jax.training import data
from tests.training.data.prepared_sets import builder, random_split


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
  """Runs the command on mnist in tmp_path, with TensorFlow and network simulated.

  Returns its exit status, stdout and stderr.
  """
  monkeypatch.setattr(prepare, "has_tensorflow", lambda: True)
  monkeypatch.setattr(tfds, "builder", lambda name, data_dir, file_format: tiny(name, data_dir))

  def run(*arguments):
    status = prepare.main(["prepare", *arguments, f"--data_dir={tmp_path}"])
    return status, *capsys.readouterr()

  return run


def tiny(name, root):
  return builder(
    name, root, {"train": random_split(20, (4, 4, 1), 10), "test": random_split(10, (4, 4, 1), 10)}
  )


def last_line(text):
  return text.strip().splitlines()[-1]


def test_a_set_is_prepared_so_that_it_can_be_loaded_and_then_left_alone(command, tmp_path):
  status, out, _ = command("mnist")
  assert status == 0
  folder = tmp_path / "mnist" / "1.2.3"
  assert last_line(out) == (
    f"mnist is prepared, in {folder}. Train with --config.data.dir={tmp_path}"
  )
  images = data.load("mnist", seed=0, dir=str(tmp_path)).train.images
  assert images.shape == (20, 4, 4, 1)
  before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
  status, out, err = command("mnist")
  assert (status, out, err) == (
    0, f"mnist is prepared already, in {folder}; nothing was changed.\n", "")  # fmt: skip
  assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_what_a_failed_preparation_leaves_half_done_is_removed(command, tmp_path, monkeypatch):
  def fail(self, dl_manager):
    part = pathlib.Path(tmp_path / "downloads" / "train.gz.tmp.0123")
    part.mkdir(parents=True)
    (part / "train.gz").write_bytes(b"half")
    (tmp_path / "downloads" / "test.gz").write_bytes(b"whole")
    raise OSError("the host hung up\nsecond line")

  def failing(name, data_dir, file_format):
    made = tiny(name, data_dir)
    monkeypatch.setattr(type(made), "_split_generators", fail)
    return made

  monkeypatch.setattr(tfds, "builder", failing)
  status, _, err = command("mnist")
  assert status == 1
  assert last_line(err) == (
    "nc_jax: mnist could not be prepared: the host hung up "
    f"(whole downloads are kept in {tmp_path}/downloads)"
  )
  left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
  folders = {"mnist", "downloads", "downloads/extracted"}
  assert left - folders == {"downloads/test.gz"}


def test_what_another_preparation_left_is_named_and_kept(command, tmp_path):
  left = tmp_path / "mnist" / "incomplete.ABCDEF_1.2.3"
  left.mkdir(parents=True)
  status, out, _ = command("mnist")
  assert status == 0 and left.is_dir()
  assert f"{left} was left by another preparation" in out


def test_a_set_in_another_form_is_not_taken_for_prepared(command, tmp_path):
  (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
  (tmp_path / "mnist" / "3.0.1" / "dataset_info.json").write_text('{"fileFormat": "tfrecord"}')
  status, _, err = command("mnist")
  assert status == 2 and "mnist/3.0.1 holds mnist in another form than array_record" in err


def test_without_network_it_says_so_after_one_try_per_host(command, tmp_path, monkeypatch):
  asked = []

  def head(url, timeout):
    asked.append((url, timeout))
    raise requests.ConnectionError

  urls = {f"https://{host}/{file}": None for host in ("a.org", "b.org") for file in ("x", "y")}
  made = tiny("mnist", tmp_path)
  monkeypatch.setattr(type(made), "url_infos", urls)
  monkeypatch.setattr(tfds, "builder", lambda *_, **__: made)
  monkeypatch.setattr(requests, "head", head)
  status, _, err = command("mnist")
  assert status == 1
  assert err == "nc_jax: mnist could not be downloaded: no answer from a.org, b.org within 5 s.\n"
  assert len(asked) == 2 and sum(timeout for _, timeout in asked) <= 10
  monkeypatch.setattr(requests, "head", lambda url, timeout: requests.Response())
  assert command("mnist")[0] == 0


def test_what_must_be_fetched_by_hand_is_told_before_anything_is_tried(command, tmp_path):
  with pytest.MonkeyPatch.context() as patch:
    made = tiny("mnist", tmp_path)
    patch.setattr(type(made), "MANUAL_DOWNLOAD_INSTRUCTIONS", "Put the\n  two files there.")
    patch.setattr(tfds, "builder", lambda *_, **__: made)
    status, _, err = command("mnist")
    assert status == 2 and err == (
      f"nc_jax: mnist has to be fetched by hand, into {tmp_path}/downloads/manual: "
      "Put the two files there.\n"
    )


@pytest.mark.parametrize(
  "arguments, words",
  [
    (["cifar_10"], "There is no data set 'cifar_10' to prepare. Did you mean cifar10?"),
    (["xyz"], "Choose one of mnist, fashion_mnist,"),
    ([], "NAME of the data set to prepare is missing"),
    (["mnist", "--fast"], "unrecognized arguments: --fast"),
  ],
)
def test_a_wrong_request_is_refused(command, arguments, words):
  status, out, err = command(*arguments)
  assert status == 2 and out == "" and words in err and err.count("\n") == 1


def test_without_tensorflow_it_names_the_extra(tmp_path):
  # As a user would start it, and with no tensorflow to be found.
  blocked = "import sys; sys.modules['tensorflow'] = None; import runpy; "
  run = "sys.argv = ['prepare', 'kmnist', '--data_dir=' + sys.argv[1]]; "
  module = "runpy.run_module('nc_jax.prepare', run_name='__main__')"
  done = subprocess.run(
    [sys.executable, "-c", blocked + run + module, str(tmp_path)],
    capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()},
  )  # fmt: skip
  assert done.returncode == 2 and done.stdout == ""
  assert done.stderr == (
    "nc_jax: Preparing kmnist needs TensorFlow, once: pip install -e '.[prepare]' "
    "(training does not).\n"
  )
  assert not list(tmp_path.iterdir())


def test_help_names_every_set(command):
  status, out, _ = command("--help")
  assert status == 0 and max(map(len, out.splitlines())) <= 100
  assert "imagenet_resized/64x64" in out and "{names}" not in out
