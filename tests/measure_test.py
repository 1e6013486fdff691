"""python -m nc_jax.measure: the numbers of the library, from files, as users meet them."""

import json
import os
import runpy
import subprocess
import sys

import jax
import numpy as np
import pytest

import nc_jax as nc
from tests.configs import ROOT
from tests.exported import sets
from tests.exported.sets import HEAD, TEST, TRAIN
from tests.metrics import oracle

K = len(HEAD["weight"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """train.npz with a head, and test.npz."""
  folder = tmp_path_factory.mktemp("features")
  sets.saved(folder / "train.npz", **TRAIN, **HEAD)
  sets.saved(folder / "test.npz", **TEST)
  return folder


def start(*arguments, **options):
  options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
  command = [sys.executable, *map(str, arguments)]
  quick = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # what takes time is compilation
  return subprocess.run(command, cwd=ROOT, env=quick, text=True, timeout=240, **options)


@pytest.fixture
def here(monkeypatch, capsys):
  """The exit status of the command in this process, and what it wrote."""

  def here(*arguments):
    monkeypatch.setattr(sys, "argv", ["measure", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
      runpy.run_module("nc_jax.measure", run_name="__main__")
    return end.value.code, *capsys.readouterr()

  return here


@pytest.fixture
def refuse(here):
  """What the command says when it refuses: one line, and nothing else."""

  def refuse(*arguments):
    status, out, err = here(*arguments)
    assert status == 2 and out == ""
    assert err.startswith("nc_jax: ") and err.count("\n") == 1
    return err

  return refuse


def test_json_has_the_numbers_of_a_plain_float64_computation_and_needs_jax_and_numpy_alone(folder):
  done = start(
    "-Ximporttime", "-m", "nc_jax.measure", folder / "train.npz", "--test", folder / "test.npz",
    "--float64", "--json", "--chunk_rows", 60,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  imported = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
  assert all(line.startswith("import time:") for line in done.stderr.splitlines())  # and no bar
  optional = {"flax", "rich", "clu", "absl", "matplotlib", "tensorflow"}
  assert not optional & {name.partition(".")[0] for name in imported}

  got = json.loads(done.stdout, parse_constant=pytest.fail)
  expected = oracle.measure(*TRAIN.values(), K, **HEAD)
  assert got["metrics"] == pytest.approx({key: expected[key] for key in got["metrics"]}, rel=1e-6)
  collapse = oracle.test_collapse(tuple(TRAIN.values()), tuple(TEST.values()), K, **HEAD)
  assert got["test_collapse"] == pytest.approx(collapse, rel=1e-6)
  assert {*got["metrics"], *got["test_collapse"]} == set(nc.METRICS)
  # Counts are divided as int32, for which JAX has no double precision; the rest is exact.
  shares = [key for key in got["metrics"] if "error" in key or "mismatch" in key]
  for key in set(got["metrics"]).difference(shares):
    assert got["metrics"][key] == pytest.approx(expected[key], rel=1e-9), key
  assert 0 < min(expected[key] for key in shares)  # else they would not tell much


def test_the_tables_come_with_a_figure_and_follow_the_conventions(folder, here):
  figure = folder / "figure.png"
  status, out, err = here(
    folder / "train.npz", "--test", folder / "test.npz", "--chunk_rows", 60, "--figure", figure,
    "--within", "classes", "--norm_ddof", 0, "--pair_ddof", 1,
  )  # fmt: skip
  assert status == 0 and err == ""
  lines = out.splitlines()
  assert lines[2] == f"K = {K} classes, C = {K - 1} of them with examples; linear head with bias"
  rows = {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("  ")}
  assert set(rows) == set(nc.METRICS)
  conventions = {"within": "classes", "norm_ddof": 0, "pair_ddof": 1}
  expected = oracle.measure(*TRAIN.values(), K, **HEAD, **conventions)
  # Five digits are printed; tests/metrics says how exact float32 is.
  assert {key: rows[key] for key in expected} == pytest.approx(expected, rel=1e-4, abs=1e-5)
  assert rows["strong/second_moment"] > rows["weak/second_moment"] > 0
  assert lines[-1] == f"Figure: {figure}"
  assert figure.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_test_sets_are_shards_wherever_they_are_named(folder, here):
  train, test = folder / "train.npz", folder / "test.npz"
  sizes = []
  for more in ([train], ["--test", train], ["--json", "--test", train]):
    status, out, err = here(train, "--test", test, *more, "--json", "--no_scatter")
    assert status == 0, err
    sizes.append(json.loads(out)["test"]["examples"])
  assert sizes == 3 * [len(TEST["labels"]) + len(TRAIN["labels"])]


def test_a_name_may_have_letters_that_mean_something_elsewhere(tmp_path, here):
  """To matplotlib, to a terminal, or to no font; it may also be too long for a title."""
  path = sets.saved(tmp_path / ("$\\frac$\x1b中" + 100 * "x" + ".npz"), **TRAIN)
  status, out, err = here(path, "--no_scatter", "--figure", tmp_path / "$a$\x1b.PNG")
  assert status == 0 and err == ""
  assert "$\\frac$\\x1b中xx" in out and "$a$\\x1b.PNG" in out and "\x1b" not in out
  assert (tmp_path / "$a$\x1b.PNG").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_decompositions_get_one_thread_unless_the_user_wants_more(monkeypatch, here):
  for given in (None, "3"):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    if given:
      monkeypatch.setenv("OPENBLAS_NUM_THREADS", given)
    assert here("--help")[0] == 0
    assert os.environ["OPENBLAS_NUM_THREADS"] == (given or "1")


def test_a_device_that_is_not_there_is_one_line(folder, monkeypatch, here):
  monkeypatch.setenv("JAX_PLATFORMS", "abacus")
  done = start("-m", "nc_jax.measure", folder / "train.npz")
  assert done.stderr.startswith("nc_jax: Unable to initialize backend 'abacus'")
  assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1

  def failing(*_):  # as JAX does with JAX_PLATFORMS=cuda where there is no GPU
    raise AssertionError

  monkeypatch.setattr("nc_jax.exported.files.read", failing)
  with pytest.raises(AssertionError):  # there are devices: it is something else
    here(folder / "train.npz")
  monkeypatch.setattr(jax, "devices", failing)
  status, out, err = here(folder / "train.npz")
  assert err == f"nc_jax: there is no device for JAX_PLATFORMS={jax.config.jax_platforms}\n"
  assert status == 1 and out == ""


def test_a_figure_needs_matplotlib_and_a_place(folder, tmp_path, refuse):
  program = (
    "import runpy, sys\nsys.argv[0], sys.modules['matplotlib'] = 'measure', None\n"
    "runpy.run_module('nc_jax.measure', run_name='__main__')"
  )
  done = start("-c", program, folder / "train.npz", "--figure", tmp_path / "a.png")
  assert done.stderr == "nc_jax: --figure needs matplotlib: pip install -e '.[plot]'.\n"
  assert done.returncode == 2 and done.stdout == ""
  place = lambda path: refuse(folder / "train.npz", "--figure", path)
  assert "must end in .png, .pdf or .svg" in place(tmp_path / "a.jpg")
  assert "there is no folder" in place(tmp_path / "b" / "a.png")
  assert "cannot be written" in place("/proc/a.png")
  assert "cannot be written: File name too long." in place(tmp_path / f"{'a' * 300}.png")
  assert "cannot be written: File name too long." in place(tmp_path / f"{'a' * 240}.png")
  assert list(tmp_path.iterdir()) == []
  (tmp_path / "c.png").mkdir()
  assert "is a folder" in place(tmp_path / "c.png")


def test_what_is_wrong_is_one_line(folder, tmp_path, refuse):
  train, broken = folder / "train.npz", TRAIN["features"].copy()
  broken[[3, 7], 0] = np.nan
  sets.saved(tmp_path / "nan.npz", features=broken, labels=TRAIN["labels"])
  figure = tmp_path / "a.png"
  message = refuse(train, tmp_path / "nan.npz", "--chunk_rows", 60, "--figure", figure, "--json")
  assert "2 of 400 examples hold nan, inf or too large a number: rows 3, 7 of" in message
  assert not figure.exists()
  assert "lacks `features`" in refuse(sets.saved(tmp_path / "x.npz", labels=np.zeros(3, int)))
  assert "FILES with the features to measure are missing. See --help." in refuse()
  assert "name them first" in refuse("--test", folder / "test.npz", train)
  assert "--withing" in refuse(train, "--withing", "classes")
  assert "--num_classes=0, but must be at least 1" in refuse(train, "--num_classes", 0)
  assert "--chunk_rows=0, but must be at least 1" in refuse(train, "--chunk_rows", 0)
  assert "--pair_ddof=-1, but must be at least 0" in refuse(train, "--pair_ddof", -1)
  assert "'' is not a file." in refuse("")
  assert f"--norm_ddof={K - 1} must be below" in refuse(train, "--norm_ddof", K - 1)
  wide = {"features": np.zeros((2, 10**6), "f2"), "labels": np.arange(2)}
  assert "--no_scatter" in refuse(sets.saved(tmp_path / "wide.npz", **wide))


def test_a_reader_that_leaves_early_is_no_error_to_report():
  read_end, write_end = os.pipe()
  os.close(read_end)
  with os.fdopen(write_end, "w") as stdout:
    done = start("-m", "nc_jax.measure", "--help", stdout=stdout)
  assert done.stderr == "" and done.returncode == 1


def test_the_module_does_not_hide_the_function():
  with pytest.raises(ImportError, match="is a command"):
    __import__("nc_jax.measure")
  assert callable(nc.measure)
