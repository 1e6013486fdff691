"""The majority among the nearest training examples."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from nc_jax.metrics.products import HIGHEST, squared_norms
from nc_jax.training.probes.devices import ROWS, WHOLE, gathered, over_examples, own_rows
from nc_jax.training.probes.examples import examples
from nc_jax.training.probes.standard import fit, standard_rows

CANDIDATES = 32  # examples whose distance is computed as a difference
TILE = 256  # queries at a time


def knn(train, labels, queries, num_classes: int, k: int, mask=None) -> Array:
  """[N_test] int32: the most frequent class among the k nearest; features are standardised.

  Euclidean distances; ties between classes go to the smallest label, as in scikit-learn's
  KNeighborsClassifier. Never an [N_test, N] array: tiles of queries, and with features spread
  over devices each device searches its own examples for all queries.

  Candidates are found by a matrix product, ‖x‖² / 2 − ⟨q, x⟩ about the mean; the best 32 (or
  2k) are ranked by Σ (q − x)². The product resolves squared distances to about ε (‖q‖² + ‖x‖²),
  ε = 6e-8. Where more than 32 examples lie nearer to each other than that, within one fully
  collapsed class, the k are some of these nearest, not certainly the nearest; all of one class
  of the training labels, their finer labels may differ. Equal distances go by training order.

  Args:
    train: [N, D] features, on one device or spread over examples by a NamedSharding.
    labels: [N] integers in [0, K).
    queries: [N_test, D], spread like `train` if that is spread.
    num_classes: K.
    k: number of neighbours.
    mask: [N] bool, False for padding. If fewer than k are left, these vote.
  """
  train, labels, mask, split = examples(train, labels, mask, "train", num_classes)
  queries, _, _, _ = examples(queries, None, None, "queries", split=split)
  k = jnp.asarray([k], jnp.int32)
  candidates = candidates_for([int(k[0])])
  return _knn(train, labels, mask, queries, k, num_classes, candidates, split)[0]


def candidates_for(ks) -> int:
  """How many examples to rank; the same number for all usual k, so that one program serves."""
  return max([CANDIDATES, *(2 * k for k in ks)])


@jax.jit(static_argnums=(5, 6, 7))
def _knn(train, labels, mask, queries, ks, num_classes, candidates, split):
  def local(train, labels, mask, queries, ks, axes):
    standard = fit(train, mask, axes)
    z, q = standard_rows(standard, train, mask), standard.apply(queries)
    return vote(z, labels, mask, q, ks, num_classes, candidates, axes).T

  mapped = over_examples(local, split, (ROWS, ROWS, ROWS, ROWS, WHOLE), ROWS)
  return mapped(train, labels, mask, queries, ks).T


def vote(z, labels, mask, queries, ks, num_classes: int, candidates: int, axes) -> Array:
  """[len(ks), N_test] decisions for this device's queries [N_test, D].

  Args:
    z: [N, D] this device's standardised training examples, with labels [N] and mask [N].
    queries: [N_test, D] standardised.
    ks: [] numbers of neighbours.
    num_classes: K.
    candidates: how many are ranked by exact differences.
  """
  kept = min(candidates, z.shape[0])
  half = jnp.where(mask, squared_norms(z) / 2, jnp.inf)

  def nearest(tile):
    product = jnp.matmul(tile, z.T, precision=HIGHEST)
    index = lax.top_k(product - half, kept)[1]
    index = jnp.sort(index, axis=1)  # equal distances go by training order
    square = jnp.sum((tile[:, None] - z[index]) ** 2, axis=2)
    return jnp.where(mask[index], square, jnp.inf), labels[index]

  everyone = gathered(queries, axes)
  squares, classes = _in_tiles(nearest, everyone)
  squares, classes = (
    own_rows(gathered(x, axes, axis=1), queries.shape[0], axes) for x in (squares, classes)
  )
  best, order = lax.top_k(-squares, min(candidates, squares.shape[1]))
  classes = jnp.take_along_axis(classes, order, axis=1)
  votes = (jnp.arange(best.shape[1]) < ks[:, None, None]) & (best > -jnp.inf)
  counts = jnp.sum(votes[..., None] & (classes[..., None] == jnp.arange(num_classes)), axis=2)
  return jnp.argmax(counts, axis=-1).astype(jnp.int32)


def _in_tiles(function, rows: Array):
  """function([T, D]) -> arrays [T, ...], over all rows."""
  size = rows.shape[0]
  tiles = -(-size // TILE)
  width = -(-size // tiles)
  padded = jnp.pad(rows, ((0, tiles * width - size), (0, 0)))
  results = lax.map(function, padded.reshape(tiles, width, -1))
  return jax.tree.map(lambda x: x.reshape(tiles * width, *x.shape[2:])[:size], results)
