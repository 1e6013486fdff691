import math

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.patches import Rectangle

from nc_jax.figure_style import STYLE
from nc_jax.heat_maps import heat_map

LR, DECAY = [0.3, 0.01, 0.1], [5e-4, 0, 5e-3]  # not in order


@pytest.fixture(autouse=True)
def style():
  with matplotlib.rc_context(STYLE):
    yield


def sweep(seeds=2, **extra):
  """V = lr / (1 + decay) (1 + seed / 10), from 0.01 to 0.3, and an error between 0.1 and 0.2."""
  return [
    {"lr": lr, "decay": decay, "seed": seed, "error": 0.1 + lr / 5, **extra}
    | {"V": lr / (1 + decay) * (1 + seed / 10)}
    for lr in LR
    for decay in DECAY
    for seed in range(seeds)
  ]


def panels(figure, title: str):
  return [axes for axes in figure.axes if axes.get_title().split("\n")[0] == title]


def colours(axes):
  """The masked means [rows, columns] and their norm."""
  (mesh,) = axes.collections
  return mesh.get_array(), mesh.norm


def hatched(axes) -> set[tuple[int, int]]:
  """(column, row) of each hatched square."""
  squares = [p for p in axes.patches if isinstance(p, Rectangle) and p.get_hatch()]
  return {(round(p.get_x() + 0.5), round(p.get_y() + 0.5)) for p in squares}


def legend(figure) -> list[str]:
  return [text.get_text() for box in figure.legends for text in box.get_texts()]


def test_a_map_holds_the_means_over_seeds_with_the_settings_in_order():
  figure = heat_map(sweep(), "lr", "decay", ["V", "error"])
  (axes,) = panels(figure, "V")
  means, norm = colours(axes)
  lr, decay = np.array(sorted(LR)), np.array(sorted(DECAY))
  np.testing.assert_allclose(means, lr / (1 + decay[:, None]) * 1.05)
  assert [t.get_text() for t in axes.get_xticklabels()] == ["0.01", "0.1", "0.3"]
  assert [t.get_text() for t in axes.get_yticklabels()] == ["0", "0.0005", "0.005"]
  assert (axes.get_xlabel(), axes.get_ylabel()) == ("lr", "decay")
  assert isinstance(norm, LogNorm)  # V spans more than a decade, the error does not
  (axes,) = panels(figure, "error")
  assert not isinstance(colours(axes)[1], LogNorm)
  assert figure.get_suptitle() == "mean over 2 seeds" and not legend(figure)


def test_numbers_stand_in_their_squares_in_black_or_white_whichever_is_read_better():
  figure = heat_map(sweep(seeds=1), "lr", "decay", "V")
  (axes,) = panels(figure, "V")
  means, norm = colours(axes)
  assert len(axes.texts) == 9
  for text in axes.texts:
    column, row = text.get_position()
    assert float(text.get_text()) == pytest.approx(means[row, column], rel=0.05)  # two digits
    ground = luminance(matplotlib.colormaps["viridis"](norm(means[row, column])))
    contrasts = {"white": 1.05 / (ground + 0.05), "black": (ground + 0.05) / 0.05}
    assert contrasts[text.get_color()] == max(contrasts.values()) > 4.5
  assert {text.get_color() for text in axes.texts} == {"black", "white"}


def luminance(colour) -> float:
  linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
  return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def test_more_than_a_hundred_squares_have_no_numbers_and_not_all_their_ticks():
  def square(side):
    table = [{"a": i, "b": j, "V": 1.0 + i} for i in range(side) for j in range(side)]
    return panels(heat_map(table, "a", "b", "V"), "V")[0]

  assert len(square(10).texts) == 100 and not square(11).texts
  ticks = [text.get_text() for text in square(50).get_xticklabels()]
  assert ticks == [str(i) for i in range(0, 50, 3)]


def test_failed_missing_and_half_failed_points_are_told_apart():
  table = sweep()
  for row in table:
    if row["lr"] == 0.3 and (row["decay"] == 0 or row["decay"] == 5e-3 and row["seed"] == 0):
      del row["V"], row["error"]
      row["failed"] = "loss nan at step 31"
  table = [row for row in table if (row["lr"], row["decay"]) != (0.01, 0)]
  figure = heat_map(table, "lr", "decay", "V")
  (axes,) = panels(figure, "V")
  means, _ = colours(axes)
  assert hatched(axes) == {(2, 0)}
  assert means.mask.tolist() == [[True, False, True], [False] * 3, [False] * 3]
  assert means[2, 2] == pytest.approx(0.3 / 1.005 * 1.1)  # of the seed that ended
  (cross,) = axes.lines
  assert np.round(cross.get_xydata()).tolist() == [[2, 2]]
  assert set(legend(figure)) == {
    "failed: no seed ended",
    "some seeds failed: mean over the others",
  }
  assert figure.get_suptitle() == "mean over 1 to 2 seeds"


@pytest.mark.filterwarnings("error")
def test_nan_and_infinity_are_written_on_no_colour_and_nothing_at_all_is_drawn_too():
  table = [
    {"a": "x", "b": True, "V": math.nan},
    {"a": [128, 128], "b": None, "V": math.inf},
    {"a": "x", "b": None, "V": 2.0},
  ]
  figure = heat_map(table, "a", "b", "V")
  (axes,) = panels(figure, "V")
  assert colours(axes)[0].count() == 1
  assert {text.get_text() for text in axes.texts} == {"–", "∞", "2"}
  assert [text.get_text() for text in axes.get_xticklabels()] == ["x", "128 128"]
  figure.draw_without_rendering()
  failed = [{"a": 1, "b": 2, "failed": "out of memory"}, {"a": 2, "b": 2, "V": math.nan}]
  for y in ("b", None):
    figure = heat_map(failed, "a", y, "V")
    figure.draw_without_rendering()
    assert len(figure.axes) == 1  # nothing to explain by a colour bar


def test_swept_alone_a_setting_has_lines_with_the_range_over_seeds():
  table = [{**row, "V": 0.0, "failed": "nan"} if row["lr"] == 0.3 else row for row in sweep(3)]
  table = [row for row in table if row["decay"] == 0]
  figure = heat_map(table, "lr", None, "V")
  (axes,) = panels(figure, "V")
  line, cross = axes.lines
  np.testing.assert_allclose(line.get_xydata(), [(0.01, 0.011), (0.1, 0.11)])
  (band,) = axes.collections
  inside = band.get_paths()[0].vertices
  assert inside[:, 1].min() == 0.01 and inside[:, 1].max() == pytest.approx(0.12)
  assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")  # exactly one decade
  assert cross.get_xdata() == [0.3]
  assert legend(figure) == ["failed: no seed ended (lower edge)"]


def test_lines_over_names_or_over_powers_of_ten_and_0_are_evenly_spaced():
  for levels, names in (
    (["vgg", "mlp"], ["vgg", "mlp"]),
    ([1e-2, 0, 1e-4], ["0", "0.0001", "0.01"]),
  ):
    (axes,) = panels(heat_map([{"a": v, "V": 1.0} for v in levels], "a", None, "V"), "V")
    assert axes.lines[0].get_xdata().tolist() == list(range(len(names)))
    assert [text.get_text() for text in axes.get_xticklabels()] == names


def test_a_third_setting_has_a_map_per_value_in_the_same_colours():
  table = sweep(model="mlp") + [row | {"V": 10 * row["V"]} for row in sweep(model="vgg")]
  figure = heat_map(table, "lr", "decay", ["V", "error"], ["model"])
  maps = panels(figure, "V")
  assert [axes.get_title() for axes in maps] == ["V\nmodel = mlp", "V\nmodel = vgg"]
  (low, norm), (high, other) = map(colours, maps)
  np.testing.assert_allclose(high, 10 * low)
  assert (norm.vmin, norm.vmax) == (other.vmin, other.vmax) == (low.min(), high.max())
  assert len(panels(figure, "error")) == 2


def test_of_many_maps_twelve_are_drawn_and_the_title_says_so():
  table = [{"a": i, "b": j, "c": k, "V": 1} for i in (1, 2) for j in (1, 2) for k in range(13)]
  figure = heat_map(table, "a", "b", "V", ["c"])
  assert len(panels(figure, "V")) == 12
  assert figure.get_suptitle() == "one seed; 12 of 13 maps of each"


def test_what_the_table_lacks_is_named():
  with pytest.raises(ValueError, match="table must have a row per run; got none"):
    heat_map([], "lr", "decay", "V")
  with pytest.raises(ValueError, match="have the setting 'momentum'; got .*'lr'"):
    heat_map(sweep(), "lr", "momentum", "V")
  with pytest.raises(ValueError, match="values must be among .*'V'.*; got 'W'"):
    heat_map(sweep(), "lr", "decay", ["V", "W"])
