"""Whatever a config, a command line or a sweep file says: a sound config, or one clear sentence."""

import json

import hypothesis
import pytest
from hypothesis import strategies as st

from nc_jax import command_line, settings, workdirs
from nc_jax.experiments import grid
from nc_jax.settings import SETTINGS
from tests import fuzz
from tests.configs import ROOT, tiny

KEYS = sorted(SETTINGS)
GOOD = tiny()
DIGITS = f"--config={ROOT}/configs/digits.py"

NUMBERS = (
  st.integers(-3, 300)
  | st.floats()
  | st.sampled_from([2**31, 2**32, 2**63, -(2**63), 10**400, 1e308, 5e-324, -0.0, 0.1, 0.5])
)
NAMES = st.sampled_from(sorted({name for each in SETTINGS.values() for name in each.names}))
TEXTS = (
  NAMES | st.sampled_from(["", "a,b", "layer1", "groups_of_2", "parity", "~", "/"]) | st.text()
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
  SCALARS,
  lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=2),
  max_leaves=6,
)
_sorted = lambda values: sorted(set(values))
TUPLES = (
  st.lists(st.integers(0, 5), max_size=4).map(_sorted)
  | st.lists(st.floats(0, 1), max_size=3).map(_sorted)
  | st.lists(TEXTS, max_size=3)
)


def whole(value) -> bool:
  """The config that holds it is the same after a way through JSON."""
  config = settings.resolve(value)
  text = settings.to_json(config)
  assert settings.flatten(settings.resolve(json.loads(text))) == settings.flatten(config)
  for key, held in settings.flatten(config).items():
    assert held is None and SETTINGS[key].optional or type(held) is SETTINGS[key].kind
    hash(held)
  return True


def with_(**flat):
  nested = GOOD.to_dict()
  for key, value in flat.items():
    group, _, name = key.rpartition(".")
    (nested[group] if group else nested)[name] = value
  return nested


@fuzz.search(400)
@hypothesis.given(st.sampled_from(KEYS), VALUES | TUPLES)
def test_any_value_of_any_setting_is_held_or_refused_by_its_name(key, value):
  fuzz.refusal(lambda: whole(with_(**{key: value})), f"config.{key}")


@fuzz.search(150)
@hypothesis.given(st.data())
def test_a_mutated_config_file_is_read_or_named(tmp_path_factory, data):
  workdir = tmp_path_factory.getbasetemp() / "workdir"
  workdir.mkdir(exist_ok=True)
  path = workdir / "config.json"
  nested = with_()
  for _ in range(data.draw(st.integers(0, 2))):
    key, value = data.draw(st.sampled_from(KEYS) | TEXTS), data.draw(VALUES | TUPLES)
    group, _, name = key.rpartition(".")
    if data.draw(st.booleans()):
      (nested[group] if isinstance(nested.get(group), dict) else nested)[name] = value
    elif isinstance(nested.get(group), dict):
      nested[group].pop(name, None)
  text = json.dumps(nested)
  if data.draw(st.booleans()):
    place, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 20))
    text = text[:place] + data.draw(st.text(max_size=3)) + text[place + length :]
  path.write_bytes(text.encode("utf-8", "surrogatepass"))
  fuzz.refusal(lambda: whole(settings.saved(path)), str(path))
  fuzz.refusal(lambda: workdirs.check(workdir, GOOD, False), str(workdir))


ODD_FILES = {
  "deep": "[" * 100_000,
  "deep object": '{"a":' * 100_000,
  "long number": '{"seed": ' + "9" * 5000 + "}",
  "huge number": '{"optim": {"peak_lr": ' + "9" * 400 + "}}",
  "no object": "3",
  "a text": '"seed"',
  "empty": "",
  "no text": b"\xff\xfe\x00\x01",
}


@pytest.mark.parametrize("name", ODD_FILES)
def test_odd_files_are_named(tmp_path, name):
  raw = ODD_FILES[name]
  path = tmp_path / "config.json"
  path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
  assert fuzz.refusal(lambda: settings.saved(path), str(path))
  assert fuzz.refusal(lambda: grid.read(path), f"--sweep={path}")


@fuzz.search(200)
@hypothesis.given(
  st.lists(
    st.tuples(
      st.sampled_from(["--config.", "-config.", "--noconfig.", "--", "---config.", ""]),
      st.sampled_from([*KEYS, "flagfile", "undefok"]) | st.text(max_size=8),
      st.sampled_from(["=", " ", "", "=="]),
      SCALARS.map(str) | (VALUES | TUPLES).map(str) | st.text(max_size=8),
    ),
    max_size=3,
  )
)
def test_any_command_line_is_understood_or_refused(parts):
  arguments = []
  for dashes, key, joint, value in parts:
    arguments += [f"{dashes}{key}", value] if joint == " " else [f"{dashes}{key}{joint}{value}"]
  # What an operating system hands over.
  hypothesis.assume(not any("\0" in argument for argument in arguments))
  ask = lambda: whole(command_line.parse(["main", *arguments, "--workdir=w", DIGITS]).config)
  fuzz.refusal(ask)


SWEPT = st.sampled_from(KEYS) | st.text(max_size=5)
RANGES = st.dictionaries(
  st.sampled_from(["log", "linear", "x"]), st.lists(NUMBERS, min_size=2, max_size=4) | SCALARS,
  min_size=1, max_size=2,
)  # fmt: skip
GRIDS = st.dictionaries(SWEPT, st.lists(VALUES | TUPLES, max_size=3) | RANGES | VALUES, max_size=3)


@fuzz.search(200)
@hypothesis.given(GRIDS | st.lists(GRIDS, max_size=3) | VALUES, st.integers(0, 5))
def test_any_sweep_file_is_a_grid_or_refused(tmp_path_factory, asked, cut):
  path = tmp_path_factory.getbasetemp() / "sweep.json"
  path.write_text(json.dumps(asked)[cut * (cut > 3) :])

  def ask():
    cells = grid.cells(grid.read(path), GOOD, path, ())
    assert len(cells) == len({cell.name for cell in cells})
    for cell in cells:
      whole(cell.config.to_dict())

  fuzz.refusal(ask, f"--sweep={path}")
