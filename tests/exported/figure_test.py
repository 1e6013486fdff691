"""The figure: drawn for every set of classes that can be measured."""

import numpy as np
import pytest
from matplotlib.figure import Figure

import nc_jax as nc
from nc_jax.exported import figure, passes
from tests.exported import sets

WORLDS = {  # features and labels
  "two classes": (np.eye(2)[np.arange(40) % 2], np.arange(40) % 2),
  "one class": (sets.arrays()["features"], np.zeros(sets.N, int)),
  "no spread": (np.eye(4)[np.arange(40) % 4], np.arange(40) % 4),
  "equal means": (np.repeat([[1.0, -1.0], [-1.0, 1.0]], 20, axis=0), np.arange(40) % 2),
  "one feature": (np.arange(40.0)[:, None] % 4 + np.eye(40, 1), np.arange(40) % 4),
  "too many to show": (np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 30),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", WORLDS)
def test_every_world_can_be_drawn(tmp_path, monkeypatch, name):
  monkeypatch.setattr(figure, "_MOST_CLASSES", 5)
  features, labels = WORLDS[name]
  num_classes = labels.max() + 1
  moments = nc.ClassMoments.of(features, labels, num_classes)
  rows = nc.Head(np.ones((num_classes, features.shape[1]), "f"))
  for covariance, head in ((moments.scatter / len(labels), rows), (None, None)):
    measured = passes.Measured(dict.fromkeys(nc.METRICS, 0.5), moments, covariance)
    request = passes.Request(num_classes=num_classes, head=head)
    figure.save(tmp_path / "a.png", measured, request, name)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def drawn(name):
  """The figure of one of the worlds, by the titles of its panels."""
  features, labels = WORLDS[name]
  moments = nc.ClassMoments.of(features, labels, labels.max() + 1)
  measured = passes.Measured(dict.fromkeys(nc.METRICS, 1e-5), moments, moments.scatter)
  made = figure.draw(measured, passes.Request(num_classes=labels.max() + 1))
  made.canvas.draw()
  return {axes.get_title(): axes for axes in made.axes}


@pytest.mark.parametrize("name", sorted(WORLDS.keys() - {"one class"}))
def test_labels_keep_within_their_panels_and_apart(name):
  panels = drawn(name)
  for axes in panels.values():
    if legend := axes.get_legend():
      assert axes.bbox.x0 <= legend.get_window_extent().x0, axes.get_title()
    ticks = [x for x in axes.get_xticklabels() if x.get_text()]
    edges = [x.get_window_extent() for x in ticks if axes.bbox.x0 <= x.get_window_extent().x1]
    assert all(a.x1 < b.x0 for a, b in zip(edges, edges[1:], strict=False)), axes.get_title()
  assert not any("-" in title for title in panels)  # the axes have another minus sign


def test_a_spectrum_of_one_value_is_seen():
  panels = drawn("one feature")
  spectrum = next(axes for title, axes in panels.items() if title.startswith("Spectrum"))
  lines = [line for line in spectrum.lines if len(line.get_xdata()) == 1]
  assert len(lines) == 3 and all(line.get_marker() == "o" for line in lines)
  sizes = [line.get_markersize() for line in lines]
  assert sizes[0] > max(sizes[1:])  # what lies below shows


def test_the_mean_of_many_classes_is_seen():
  spread = drawn("too many to show")["NC1: spread of each class\nnc1/trace_ratio = 1e−05"]
  dots, mean = spread.lines
  assert mean.get_zorder() > dots.get_zorder() and mean.get_color() != dots.get_color()


@pytest.mark.filterwarnings("error")
def test_a_long_title_keeps_its_end_and_no_letter_of_it_is_a_command(tmp_path, monkeypatch):
  titles = []
  monkeypatch.setattr(Figure, "suptitle", lambda self, title, **_: titles.append(title))
  features, labels = WORLDS["two classes"]
  moments = nc.ClassMoments.of(features, labels, 2)
  measured = passes.Measured(dict.fromkeys(nc.METRICS, 0.5), moments, None)
  end = ": N = 40 examples, D = 2 features"
  figure.save(tmp_path / "a.png", measured, passes.Request(num_classes=2), "x" * 200 + end)
  assert len(titles[0]) == 100 and titles[0].startswith("…xx") and titles[0].endswith(end)
  monkeypatch.undo()
  figure.save(tmp_path / "a.png", measured, passes.Request(num_classes=2), r"$\frac$ 中")
