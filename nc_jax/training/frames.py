"""Fixed classifiers: K unit vectors in D dimensions, as far apart as they can be."""

import functools

import numpy as np

from nc_jax.errors import UserError


@functools.cache
def simplex(num_classes: int, dim: int, seed: int) -> np.ndarray:
  """A simplex ETF: float32 [K, D], every two rows at cosine −1/(K − 1).

      E = √(K/(K − 1)) · U Vᵀ,   U S Vᵀ the thin SVD of a centred K x D Gaussian matrix

  U's columns are orthonormal and orthogonal to 1, hence U Uᵀ = I − 11ᵀ/K; V's are a random
  frame. So the seed turns the simplex at random, and thereby also permutes the classes.

  Raises UserError unless K ≤ D + 1: no more vectors can be that far apart.
  """
  if num_classes > dim + 1:
    raise UserError(
      f"config.head.name = 'etf' needs K <= D + 1, but there are K = {num_classes} classes and "
      f"D = {dim} features; 'frame' serves any K."
    )
  points = np.random.default_rng([seed, 0xE7F]).standard_normal((num_classes, dim))
  u, _, vt = np.linalg.svd(points - points.mean(0), full_matrices=False)
  rank = num_classes - 1
  return np.float32(np.sqrt(num_classes / rank) * u[:, :rank] @ vt[:rank])


@functools.cache
def spread(num_classes: int, dim: int, seed: int) -> np.ndarray:
  """Maximally spread unit vectors, float32 [K, D]: the largest cosine of two is the smallest.

  K ≤ D + 1: the simplex ETF, −1/(K − 1). K ≤ 2D: K − D simplices in orthogonal subspaces, 0;
  both meet Rankin's bound. Beyond 2D: gradient descent on the sphere, of the soft maximum

      (1/β) log Σ_{i≠j} exp(β e_i·e_j)

  while β rises from 2 to 2000: first all repel all, in the end only the closest pairs count.
  Largest cosines found, against the smallest possible: D = 2, regular polygons, exact; D = 3 and
  K = 7, 8, 12, 24: 0.2103, 0.2613, 0.4472, 0.7232 against 0.2101, 0.2612, 0.4472, 0.7231 (Tammes'
  problem); K = 16, D = 5: 0.2 and K = 27, D = 6: 0.25, both exact. A second for K = 100, minutes
  for K = 1000.

  Beware: features behind a ReLU are nowhere negative, and in a few dimensions such features may
  not reach the rows of some classes.

  Rankin 1955, "The closest packing of spherical caps in n dimensions". As a classifier: Jiang
  et al. 2023, arXiv 2310.05351.
  """
  if num_classes <= dim + 1:
    return simplex(num_classes, dim, seed)
  rng = np.random.default_rng([seed, 0xF4A])
  if num_classes <= 2 * dim:
    return np.float32(_orthogonal_simplices(num_classes, dim, rng))
  points = rng.standard_normal((num_classes, dim))
  points /= np.linalg.norm(points, axis=1, keepdims=True)
  for beta in np.geomspace(2, 2000, 4000):
    cosine = points @ points.T
    np.fill_diagonal(cosine, -np.inf)
    weight = np.exp(beta * (cosine - cosine.max()))
    push = weight @ points
    push -= np.sum(push * points, axis=1, keepdims=True) * points  # along the sphere
    points -= push / (beta * weight.sum(1).max())  # the curvature grows with beta
    points /= np.linalg.norm(points, axis=1, keepdims=True)
  return np.float32(points)


def _orthogonal_simplices(num_classes: int, dim: int, rng) -> np.ndarray:
  """K − D simplices of nearly equal size, D dimensions in all, turned at random: [K, D]."""
  points = np.zeros((num_classes, dim))
  start = 0
  for classes in np.array_split(rng.permutation(num_classes), num_classes - dim):
    end = start + len(classes) - 1
    points[classes, start:end] = simplex(len(classes), len(classes) - 1, 0)
    start = end
  rotation, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
  return points @ rotation
