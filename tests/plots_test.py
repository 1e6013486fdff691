import numpy as np
import pytest

from nc_jax import plots, writers
from nc_jax.errors import UserError


def make_run(workdir, epochs, train_errors, layers=("layer1", "penultimate"), num_classes=4):
  """A workdir with the tables of a run, made up."""
  rows = []
  for epoch, error in zip(epochs, train_errors, strict=True):
    for split, value in (("train", 1 / (1 + epoch)), ("test", 1 / (1 + epoch**0.5))):
      rows += [(epoch, epoch, split, layer, "nc1/trace_ratio", value) for layer in layers]
      rows.append((epoch, epoch, split, "logits", "error/classifier", error))
    rows.append((epoch, epoch, "test", "penultimate", "weak/second_moment", float("nan")))
  writers.write_csv(workdir / "metrics.csv", rows)
  means = np.random.default_rng(0).normal(size=(num_classes, 5))
  np.savez(workdir / "class_means.npz", train=means, test=means, weight=means)


def test_damaged_class_means_are_named(tmp_path):
  make_run(tmp_path, (0,), (0.5,))
  path = tmp_path / "class_means.npz"
  content = path.read_bytes()
  for damaged in (content[:-40], content.replace(b"(4, 5)", b"(3, 5)"), b""):
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="class_means.npz cannot be read, is it damaged"):
      plots.draw(tmp_path)


def lines_of(axes):
  return {line.get_label(): line.get_xydata() for line in axes.lines}


def test_every_figure_is_drawn_even_for_a_run_of_one_epoch_and_one_layer(tmp_path):
  make_run(tmp_path, (0,), (0.5,), layers=("penultimate",), num_classes=2)
  for path in plots.draw(tmp_path):
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_curves_are_the_table_s_and_the_terminal_phase_begins_at_error_0(tmp_path):
  make_run(tmp_path, (0, 1, 10, 100), (0.9, 0.1, 0, 0))
  rows = writers.read_csv(tmp_path / "metrics.csv")
  above, below = plots.collapse(rows).axes
  np.testing.assert_allclose(
    lines_of(above)["V(train)"], [(e, 1 / (1 + e)) for e in (0, 1, 10, 100)]
  )
  np.testing.assert_allclose(lines_of(below)["train error"][:, 1], [0.9, 0.1, 0, 0])
  assert "terminal phase: train error 0 since epoch 10" in above.get_legend_handles_labels()[1]


def test_without_a_terminal_phase_none_is_marked(tmp_path):
  make_run(tmp_path, (0, 1), (0.9, 0.1))
  above, _ = plots.collapse(writers.read_csv(tmp_path / "metrics.csv")).axes
  assert not any("terminal" in label for label in above.get_legend_handles_labels()[1])


def test_class_means_stand_beside_the_ideal_etf():
  etf = np.eye(5) - 1 / 5
  figure = plots.class_means({"train": etf + 7, "test": np.eye(5), "weight": etf})
  matrices = {
    axes.get_title().split("\n")[0]: axes.images[0].get_array() for axes in figure.axes[:4]
  }
  ideal = matrices["ideal simplex ETF"]
  np.testing.assert_allclose(ideal[0, 1], -1 / 4)
  # Centred means of an ETF anywhere in space are the ETF.
  np.testing.assert_allclose(matrices["train class means"], ideal, atol=1e-12)
  assert "= 0.000" in figure.axes[0].get_title()
