"""The figure: drawn for every set of classes that can be measured."""

import numpy as np
import pytest

import nc_jax as nc
from nc_jax.exported import figure, passes
from tests.exported import sets

WORLDS = {  # features and labels
  "two classes": (np.eye(2)[np.arange(40) % 2], np.arange(40) % 2),
  "one class": (sets.arrays()["features"], np.zeros(sets.N, int)),
  "no spread": (np.eye(4)[np.arange(40) % 4], np.arange(40) % 4),
  "equal means": (np.repeat([[1.0, -1.0], [-1.0, 1.0]], 20, axis=0), np.arange(40) % 2),
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
