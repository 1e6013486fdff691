"""Sweep files, and small real sweeps: their tables and figures, killed and extended."""

import contextlib
import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest

from nc_jax import settings, sweep, workdirs
from nc_jax.errors import UserError
from nc_jax.experiments import grid, phase_diagram
from nc_jax.experiments.results import Cell, Results
from tests.configs import ROOT, TINY, tiny
from tests.experiments import made_up

PNG = b"\x89PNG\r\n\x1a\n"
RATE, DECAY = "optim.peak_lr", "optim.weight_decay"


# --- Sweep files ---


def written(folder, asked):
  path = folder / "sweep.json"
  path.write_text(asked if isinstance(asked, str) else json.dumps(asked))
  return path


def cells(folder, asked, given=(), **changes):
  path = written(folder, asked)
  return grid.cells(grid.read(path), tiny(**changes), path, given)


def test_a_grid_is_every_combination_in_order(tmp_path):
  found = cells(tmp_path, {RATE: [0.1, 1], "model.width": [8, 9]})
  pairs = [(0.1, 8), (0.1, 9), (1.0, 8), (1.0, 9)]
  assert [cell.values for cell in found] == [{RATE: r, "model.width": w} for r, w in pairs]
  assert [(c.config.optim.peak_lr, c.config.model.width) for c in found] == pairs
  assert found[0].name == "optim.peak_lr=0.1, model.width=8"
  assert found[2].name == "optim.peak_lr=1, model.width=8"
  before = settings.resolve(found[0].config)
  for cell in found[1:]:
    changed = settings.differences(before, settings.resolve(cell.config))
    assert {text.split(":")[0] for text in changed} <= {RATE, "model.width"}


def test_every_kind_of_value_can_be_swept(tmp_path):
  asked = {"data.label_map": [None, ["parity"], [0] * 5 + [1] * 5], "model.batch_norm": [True]}
  found = cells(tmp_path, asked)
  maps = [cell.values["data.label_map"] for cell in found]
  assert maps == [None, ("parity",), (0,) * 5 + (1,) * 5]
  assert [settings.resolve(cell.config).data.label_map for cell in found] == maps
  assert found[1].name == "data.label_map=parity, model.batch_norm=True"


def test_ranges_keep_their_ends_and_are_whole_numbers_where_the_setting_is(tmp_path):
  of = lambda key, values: [c.values[key] for c in cells(tmp_path, {key: values})]
  assert of(RATE, {"log": [1e-3, 1e-1, 3]}) == [1e-3, 1e-2, 1e-1]
  assert of(RATE, {"log": [0.12345678, 2, 3]}) == [0.12345678, 0.496904, 2.0]
  assert of(RATE, {"linear": [1, 2, 5]}) == [1, 1.25, 1.5, 1.75, 2]
  assert of(DECAY, {"linear": [0, 1, 4]}) == [0, 0.333333, 0.666667, 1]
  assert of("model.width", {"log": [16, 256, 5]}) == [16, 32, 64, 128, 256]
  assert of("model.width", {"linear": [1, 3, 9]}) == [1, 2, 3]


def test_a_union_has_each_cell_once_and_every_swept_setting_in_each(tmp_path):
  rates = {RATE: [0.1, 0.05, 0.1]}
  found = cells(tmp_path, [rates, {RATE: [0.1], DECAY: [5e-3, 0]}, {DECAY: [0.0]}])
  # The recipe has rate 0.05 and decay 0.005.
  assert [(cell.values[RATE], cell.values[DECAY]) for cell in found] == [
    (0.1, 5e-3), (0.05, 5e-3), (0.1, 0.0), (0.05, 0.0),
  ]  # fmt: skip
  assert all((c.config.optim.peak_lr, c.config.optim.weight_decay) in
             {(0.1, 5e-3), (0.05, 5e-3), (0.1, 0.0), (0.05, 0.0)} for c in found)  # fmt: skip
  # What a grid alone is called, so that its runs are kept when the file becomes a union.
  assert [c.name for c in found[:2]] == [c.name for c in cells(tmp_path, rates)]


def test_little_is_observed_unless_something_else_was_asked_for(tmp_path):
  asked = {"optim.total_epochs": [1, 60, 300]}
  observed = [cell.config.observe for cell in cells(tmp_path, asked)]
  assert [each.layers for each in observed] == [()] * 3
  assert observed[0].epochs == (1,)
  assert len(observed[2].epochs) == 11 and observed[2].epochs[::10] == (1, 300)
  observed = [c.config.observe for c in cells(tmp_path, asked, ["observe.layers"])]
  assert [each.layers for each in observed] == [None] * 3
  mine = cells(tmp_path, {RATE: [1]}, observe__epochs=(2,))[0].config.observe
  assert (mine.epochs, mine.layers) == ((2,), ())
  swept = cells(tmp_path, {"observe.layers": [None, ["layer1"]]})
  assert [cell.config.observe.layers for cell in swept] == [None, ("layer1",)]


WRONG = {
  "{\n'a'": "line 2: Expecting property name",
  f'{{"{RATE}": [1], "{RATE}": [2]}}': "'optim.peak_lr' stands twice",
  "[]": "an empty list asks for nothing",
  "{}": r"expected settings with their values, .*; got \{\}",
  '[{"model.width": [1]}, 3]': "expected settings with their values, .*; got 3",
  '{"optim.peak_rl": [1]}': "optim.peak_rl is not a setting. Did you mean optim.peak_lr?",
  '{"seed": [1, 2]}': "config.seed: seeds are chosen by --seeds",
  f'{{"{RATE}": []}}': r"optim.peak_lr: expected a list of values, .*; got \[\]",
  f'{{"{RATE}": 0.1}}': "optim.peak_lr: expected a list of values, .*; got 0.1",
  f'{{"{RATE}": {{"lgo": [1, 2, 3]}}}}': "expected a list of values, .*; got .*lgo",
  f'{{"{RATE}": {{"log": [0, 2, 3]}}}}': r"log needs .*0 < low < high.*; got \[0, 2, 3\]",
  f'{{"{RATE}": {{"linear": [2, 1, 3]}}}}': r"linear needs .* low < high, .*; got \[2, 1, 3\]",
  f'{{"{RATE}": {{"linear": [1, 2, 1]}}}}': "linear needs .*number >= 2; got",
  f'{{"{RATE}": {{"linear": [1, Infinity, 3]}}}}': "linear needs .*; got",
  f'{{"{RATE}": {{"linear": [1, 2]}}}}': "linear needs .*; got",
  f'{{"{RATE}": {{"linear": [1, 2, 3000000000]}}}}': "3,000,000,000 values, but 10,000",
  '{"model.name": {"log": [1, 2, 3]}}': "model.name is one of mlp, .*: log is for numbers",
  f'{{"{RATE}": {{"log": [1, 2, 101]}}, "{DECAY}": {{"log": [1, 2, 100]}}}}': "10,100 cells, but",
  # What only the settings know.
  f'{{"{RATE}": [0.1, -1]}}': "optim.peak_lr = -1.0, but must be a number > 0",
  f'{{"{RATE}": [true]}}': "optim.peak_lr = True, but must be a number > 0",
  '{"model.name": ["mpl"]}': "model.name = 'mpl', but must be .*. Did you mean mlp?",
}  # fmt: skip


@pytest.mark.parametrize("asked", WRONG)
def test_what_is_wrong_with_a_sweep_file_is_one_line(asked, tmp_path):
  with pytest.raises(UserError, match=WRONG[asked]) as caught:
    cells(tmp_path, asked)
  assert str(caught.value).startswith(f"--sweep={tmp_path}/sweep.json")
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["rate_decay", "width_size"])
def test_the_examples_are_sweeps_of_the_digits(name):
  path = ROOT / "configs" / "sweeps" / f"{name}.json"
  found = grid.cells(grid.read(path), tiny(), path, ())
  assert len(found) == {"rate_decay": 25, "width_size": 20}[name]
  for cell in found:
    settings.resolve(cell.config)


# --- What is shown ---


def table(levels, seeds=2):
  """V = 0.01 for the first values of all settings, and more from cell to cell."""
  rows, names = [], list(levels)
  places = [{}]
  for name in names:
    places = [place | {name: level} for place in places for level in levels[name]]
  for i, place in enumerate(places):
    for seed in range(seeds):
      values = {name: 0.01 * (i + 1) for name in phase_diagram.VALUES}
      row = {"cell": str(place), **place, "seed": seed, **values}
      rows.append(row | {"terminal epoch": 3, "failed": None})
  return rows


def test_replicates_bound_the_numbers_of_each_run(tmp_path):
  cells = [Cell(name, {}, {RATE: rate}) for name, rate in (("a", 0.1), ("b", 1.0))]
  curves = {
    ("train", "penultimate", "nc1/trace_ratio"): 0.01,
    ("train", "logits", "error/classifier"): lambda epoch: 0.1 * (epoch < 5),
  }
  factors = {place: [0.5, 2] for place in curves}
  runs = [made_up.run("a", curves, seed, range(9), factors=factors) for seed in (0, 1)]
  failed = made_up.run("b", curves, 0, range(3), "The loss is nan", factors)
  rows = phase_diagram.rows(Results(cells, [*runs, failed]))
  phase_diagram.write_csv(rows, [RATE], tmp_path / "cells.csv")
  first, _, last = read(tmp_path / "cells.csv")
  assert list(first)[list(first).index("terminal epoch") :] == [
    "terminal epoch", "V(train) low", "V(train) high", "train error low", "train error high",
    "terminal epoch low", "terminal epoch high", "failed",
  ]  # fmt: skip
  assert (first["V(train) low"], first["V(train) high"]) == ("0.005", "0.02")
  assert (first["terminal epoch"], first["terminal epoch low"]) == ("5", "5")
  assert last["V(train) low"] == "" and last["failed"] == "The loss is nan"


def titles(figure):
  return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_the_settings_with_most_values_are_the_axes():
  draw = lambda **levels: phase_diagram.figures(table(levels), list(levels))
  (figure,) = draw(a=[1, 2], b=[1, 2, 3]).values()
  assert titles(figure) == list(phase_diagram.VALUES)
  assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("b", "a")
  (figure,) = draw(a=[1], b=[1, 2, 3]).values()  # lines
  assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("b", "")
  figures = draw(a=["x", "y"], b=[1, 2, 3], c=[1, 2, 3])
  assert tuple(figures) == phase_diagram.STEMS[1:]
  assert titles(figures["sweep_V_test"]) == ["V(test)\na = x", "V(test)\na = y"]
  assert figures["sweep_V_test"].axes[0].get_xlabel() == "b"


def test_figures_take_the_place_of_earlier_ones_and_of_nothing_else(tmp_path):
  (tmp_path / "sweep.json").touch()
  files = lambda: {path.name for path in tmp_path.iterdir()}
  one = {"sweep.png", "sweep.svg"}
  several = {f"{stem}.{kind}" for stem in phase_diagram.STEMS[1:] for kind in ("png", "svg")}
  for levels, drawn in (
    ({"a": [1, 2]}, one),
    ({"a": [1, 2], "b": [1, 2], "c": [1, 2]}, several),
    ({"a": [1, 2], "b": [1, 2]}, one),
  ):
    phase_diagram.draw(table(levels, seeds=1), list(levels), tmp_path)
    assert files() == drawn | {"sweep.json"}


def test_the_summary_is_short_best_first_and_says_what_failed():
  rows = table({"a": list(range(100))})
  for row in rows[:12]:
    row.update(dict.fromkeys(phase_diagram.VALUES, math.nan), failed="The loss is nan at step 3")
  rows[13].update(dict.fromkeys(phase_diagram.VALUES, math.nan), failed="The loss is inf at step 4")
  lines = phase_diagram.summary(rows, ["a"]).splitlines()
  assert len(lines) <= 30
  assert lines[0].split() == "a V(train) V(test) V_weak(test) train error test error ended".split()
  assert lines[1].split() == ["6", *["0.0700"] * 5, "1", "of", "2"]
  assert "20 of 100 cells" in lines[21]
  assert lines[22] == "13 of 200 runs failed:"
  assert lines[23] == "  {'a': 0}, seed 0: The loss is nan at step 3" and lines[-1] == "  ..."
  whole = phase_diagram.summary(table({"a": [1, 2]}), ["a"]).splitlines()
  assert len(whole) == 3


# --- Real sweeps ---

# In each cohort of four: two seeds that fit, and two whose rate is far too large.
ASKED = {DECAY: [0.0, 5e-3], RATE: [0.02, 1e18]}
SETTINGS = TINY | {"model.batch_norm": False, "loss.name": "squared_error"}


def arguments(workdir, path, *more):
  flags = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
  config = f"--config={ROOT / 'configs' / 'digits.py'}"
  return ["nc_jax.sweep", config, f"--sweep={path}", f"--workdir={workdir}", "--seeds=2",
          "--together=4", *flags, *more]  # fmt: skip


def call(*argv, expect=0):
  with contextlib.redirect_stdout(io.StringIO()) as out:
    assert sweep.main(list(argv)) == expect
  return out.getvalue()


def read(path):
  with path.open(newline="") as file:
    return list(csv.DictReader(file))


def runs(workdir):
  return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in workdir.glob("runs/*/*/metrics.csv")}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  """A finished sweep: (workdir, its sweep file, what the command printed)."""
  folder = tmp_path_factory.mktemp("sweep")
  path = written(folder, ASKED)
  return folder / "out", path, call(*arguments(folder / "out", path))


def test_a_sweep_tells_where_each_run_ended(unbroken):
  workdir, _, said = unbroken
  rows = read(workdir / "cells.csv")
  assert list(rows[0]) == ["cell", DECAY, RATE, "seed", "V(train)", "V(test)", "V_weak(test)",
                           "train error", "test error", "terminal epoch", "failed"]  # fmt: skip
  places = [(float(row[DECAY]), float(row[RATE]), int(row["seed"])) for row in rows]
  assert places == [(d, r, s) for d in ASKED[DECAY] for r in ASKED[RATE] for s in (0, 1)]
  for row in rows:
    numbers = [row[name] for name in phase_diagram.VALUES]
    if float(row[RATE]) == 1e18:
      assert row["failed"].startswith("The loss is ") and not any(numbers)
      assert f"{row['cell']}, seed {row['seed']}: {row['failed']}" in said
    else:
      assert not row["failed"] and all(math.isfinite(float(x)) for x in numbers)
  assert "4 of 8 runs failed:" in said and "2 of 2" in said and "0 of 2" in said
  assert json.loads((workdir / "sweep.json").read_text())["sweep"] == [ASKED]


def test_its_numbers_are_those_of_the_last_epoch_of_the_runs(unbroken):
  workdir, _, _ = unbroken
  row = read(workdir / "cells.csv")[1]
  folder = workdir / "runs" / "optim.weight_decay=0_optim.peak_lr=0.02" / "seed1"
  numbers = read(folder / "metrics.csv")
  end = {(r["split"], r["layer"], r["key"]): r["value"] for r in numbers if r["epoch"] == "4"}
  assert row["V(train)"] == end["train", "penultimate", "nc1/trace_ratio"]
  assert row["V(test)"] == end["test", "penultimate", "nc1/trace_ratio"]
  assert row["V_weak(test)"] == end["test", "penultimate", "weak/second_moment"]
  assert row["train error"] == end["train", "logits", "error/classifier"]
  assert row["test error"] == end["test", "logits", "error/classifier"]
  assert {r["layer"] for r in numbers} == {"penultimate", "logits"}
  config = json.loads((folder / "config.json").read_text())
  assert (config["optim"]["peak_lr"], config["optim"]["weight_decay"]) == (0.02, 0.0)
  numbers = {(r["cell"], r["seed"], r["epoch"], r["key"]) for r in read(workdir / "results.csv")}
  assert (row["cell"], "1", "4", "nc1/trace_ratio") in numbers


def test_it_is_drawn(unbroken):
  workdir, _, _ = unbroken
  assert (workdir / "sweep.png").read_bytes().startswith(PNG)
  svg = (workdir / "sweep.svg").read_text()
  assert all(name in svg for name in (RATE, DECAY, "V_weak(test)", "failed: no seed ended"))


def test_killed_and_called_again_it_ends_as_if_it_had_not_been(unbroken, tmp_path, capsys):
  workdir, path, said = unbroken
  command = [sys.executable, "-m", *arguments(tmp_path / "out", path)]
  process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
  deadline = time.monotonic() + 240
  while len(list(tmp_path.glob("out/runs/*/*/finished.json"))) < 4:
    assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
    time.sleep(0.01)
  os.kill(process.pid, signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  process.stderr.close()
  assert not (tmp_path / "out" / "cells.csv").exists()
  done = {p.parent for p in tmp_path.glob("out/runs/*/*/finished.json")}
  assert len(done) == 4  # else there is nothing to go on with
  before = {p: whole for p, whole in runs(tmp_path / "out").items() if p.parent in done}
  path_of_one = min(done) / "versions.json"
  (entry,) = json.loads(path_of_one.read_text())
  path_of_one.write_text(json.dumps([entry | {"jax": "0.0.1"}]))
  again = call(*arguments(tmp_path / "out", path))
  assert "What is there was made with jax 0.0.1 (now " in capsys.readouterr().err
  after = runs(tmp_path / "out")
  assert len(before) == 4 and len(after) == 8
  assert {p: after[p] for p in before} == before
  assert (tmp_path / "out" / "cells.csv").read_bytes() == (workdir / "cells.csv").read_bytes()
  assert again.splitlines()[:-1] == said.splitlines()[:-1]  # the last line names the folder


def test_a_larger_grid_keeps_what_is_finished(unbroken, tmp_path):
  workdir, _, _ = unbroken
  before, picture = runs(workdir), (workdir / "sweep.png").read_bytes()
  path = written(tmp_path, ASKED | {RATE: [0.01, *ASKED[RATE]]})
  call(*arguments(workdir, path))
  after = runs(workdir)
  assert len(after) == 12 and {p: after[p] for p in before} == before
  rows = read(workdir / "cells.csv")
  assert len(rows) == 12 and [row[RATE] for row in rows[::2]] == ["0.01", "0.02", "1e+18"] * 2
  assert (workdir / "sweep.png").read_bytes() != picture
  assert json.loads((workdir / "sweep.json").read_text())["sweep"] == json.loads(
    f"[{path.read_text()}]"
  )


def test_a_second_sweep_or_study_in_the_same_workdir_is_refused(tmp_path, capsys):
  from nc_jax.experiments import __main__ as experiments

  path, study = written(tmp_path, ASKED), tmp_path / "study"
  configs = f"--configs={ROOT / 'configs'}"
  for command, workdir in (
    (lambda: sweep.main(arguments(tmp_path / "out", path)), tmp_path / "out"),
    (lambda: experiments.main(["nc_jax", "e1", f"--workdir={study}", configs]), study),
  ):
    with workdirs.held(workdir):
      assert command() == 2
    error = capsys.readouterr().err
    assert f"--workdir={workdir}: another run is writing there now." in error
    assert error.count("\n") == 1
    assert [p.name for p in workdir.iterdir()] == [".lock"]


def test_wrong_requests_are_told_in_a_line_before_anything_is_written(tmp_path, capsys):
  path = written(tmp_path, ASKED)
  good = arguments(tmp_path / "new", path)
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "notes.txt").touch()
  for argv, words in (
    ([*good, "--config.optim.peak_lr=1"], "config.optim.peak_lr: either --config.optim.peak_lr or"),
    ([*good, "--config.optim.momentun=1"], "momentun is not a setting. Did you mean optim.moment"),
    ([*good, "--config.seed=3"], "config.seed: seeds are chosen by --seeds."),
    ([*good, "--sedes=3"], "unrecognized arguments: --sedes=3. See "),
    ([*good, "--seeds=0"], "--seeds=0: must be at least 1."),
    ([*good, "--sweep=no.json"], "--sweep=no.json cannot be read: No such file or directory."),
    ([*good, "--config=no.py"], "--config=no.py: there is no file no.py."),
    (good[:2] + good[3:], "the following arguments are required: --sweep."),
    (arguments(tmp_path / "full", path), "holds files, but no sweep. Choose an empty or new fold"),
  ):
    call(*argv, expect=2)
    error = capsys.readouterr().err
    assert error.startswith("nc_jax: ") and words in error and error.count("\n") == 1
  assert not (tmp_path / "new").exists()
