import re

import matplotlib
from matplotlib.figure import Figure

from nc_jax.experiments import figure_files
from nc_jax.figure_style import STYLE


def figure() -> Figure:
  with matplotlib.rc_context(STYLE):
    made = Figure(figsize=(2, 1.5))
    axes = made.subplots()
    axes.plot([0, 1], [1, 0], label="a line")
    axes.legend()
  return made


def test_a_figure_drawn_again_has_the_same_bytes(tmp_path):
  (tmp_path / "again").mkdir()
  first = figure_files.save(tmp_path, {"one": figure(), "two": figure()})
  again = figure_files.save(tmp_path / "again", {"one": figure(), "two": figure()})
  assert [path.name for path in first] == ["one.png", "one.svg", "two.png", "two.svg"]
  for path, other in zip(first, again, strict=True):
    assert path.read_bytes() == other.read_bytes()
  png, svg = first[0].read_bytes(), first[1].read_text()
  assert png[:4] == b"\x89PNG" and b"Software" not in png
  assert int.from_bytes(png[16:20]) == 2 * figure_files.DPI
  assert svg.startswith("<?xml") and "dc:date" not in svg


def test_clip_paths_of_two_figures_have_names_of_their_own(tmp_path):
  paths = figure_files.save(tmp_path, {"one": figure(), "two": figure()})
  one, two = (set(re.findall(r'<clipPath id="(\w+)"', p.read_text())) for p in paths[1::2])
  assert one and two and not one & two
