"""Feature sets with known properties. Sizes repeat on purpose: each new shape is a compilation."""

from typing import NamedTuple

import numpy as np

K, D, N = 7, 12, 200  # the standard world


class World(NamedTuple):
  """features [N, D] float32, labels [N], weight [K, D], bias [K]."""

  features: np.ndarray
  labels: np.ndarray
  weight: np.ndarray
  bias: np.ndarray

  @property
  def num_classes(self) -> int:
    return len(self.weight)


def clusters(
  seed=0, num_classes=K, dim=D, size=N, std=0.5, offset=0.0, missing=(), single=()
) -> World:
  """Unbalanced classes about random means of norm 1 plus a common offset vector.

  Args:
    seed: of everything.
    num_classes, dim, size: K, D, N.
    std: root mean squared distance of an example to its class mean.
    offset: norm of a vector added to every feature.
    missing: classes without examples.
    single: classes with one example.
  """
  rng = np.random.default_rng(seed)
  means = rng.normal(size=(num_classes, dim))
  means /= np.linalg.norm(means, axis=1, keepdims=True)
  many = [k for k in range(num_classes) if k not in (*missing, *single)]
  labels = np.concatenate([many, many, single])  # nobody else is alone by accident
  share = np.linspace(1, 3, len(many)) / np.linspace(1, 3, len(many)).sum()
  labels = np.concatenate([labels, rng.choice(many, size - len(labels), p=share)])
  labels = rng.permutation(labels).astype(np.int32)
  noise = rng.normal(size=(size, dim)) * std / np.sqrt(dim)
  direction = rng.normal(size=dim)
  direction /= np.linalg.norm(direction)
  features = means[labels] + noise + offset * direction
  weight = means + 0.3 * rng.normal(size=means.shape)
  bias = rng.normal(size=num_classes)
  return World(features.astype(np.float32), labels, *_float32(weight, bias))


def siblings(apart: float, groups=5, dim=32, each=40, seed=0) -> World:
  """Pairs of classes that lie `apart`, in groups at distance about 1; examples a tenth as far out.

  What fine labels make of features that collapsed onto coarse ones.
  """
  rng = np.random.default_rng(seed)
  means = np.repeat(rng.normal(size=(groups, dim)), 2, axis=0) / np.sqrt(dim)
  means += apart * rng.normal(size=means.shape) / np.sqrt(dim)
  labels = np.tile(np.arange(len(means), dtype=np.int32), each)
  features = means[labels] + apart / 10 * rng.normal(size=(len(labels), dim)) / np.sqrt(dim)
  return World(features.astype(np.float32), labels, *_float32(means, np.zeros(len(means))))


def simplex(num_classes: int, dim: int) -> np.ndarray:
  """[K, D] rows of a simplex equiangular tight frame: norm 1, cosines −1/(K − 1); D >= K − 1."""
  centred = np.eye(num_classes) - 1 / num_classes
  rows = centred @ np.linalg.svd(centred)[2][: num_classes - 1].T  # within their hyperplane
  out = np.zeros((num_classes, dim))
  out[:, : num_classes - 1] = rows
  return out * np.sqrt(num_classes / (num_classes - 1))


def collapsed(num_classes=K, dim=D, each=20) -> World:
  """Total collapse: every feature on its vertex of a simplex, the head its dual."""
  means = simplex(num_classes, dim)
  labels = np.tile(np.arange(num_classes, dtype=np.int32), each)
  features, weight, bias = _float32(means[labels], 2 * means, np.zeros(num_classes))
  return World(features, labels, weight, bias)


def rotation(dim: int, seed=0) -> np.ndarray:
  """[D, D] random orthogonal matrix."""
  return np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]


def _float32(*arrays):
  return [np.asarray(x, np.float32) for x in arrays]
