"""A linear probe, and ridge regression on one-hot targets."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from nc_jax.metrics import inputs
from nc_jax.metrics.decompositions import thin_svd
from nc_jax.metrics.products import HIGHEST
from nc_jax.training.probes.devices import ROWS, WHOLE, gathered, of_first, over_examples, total
from nc_jax.training.probes.examples import examples
from nc_jax.training.probes.standard import Standard, fit, standard_rows

CHUNK = 1024  # rows to factorise at a time, at least


class Linear(NamedTuple):
  """scores = W z + b of standardised features z.

  Attributes:
    standard: the standardisation, of the features it was fitted on.
    weight: [K, D].
    bias: [K], −inf for a class without training examples.
    converged: [] bool, whether the fit came to its end; always True for ridge.
  """

  standard: Standard
  weight: Array
  bias: Array
  converged: Array

  def decide(self, features) -> Array:
    """[N] int32 decisions on features [N, D] as they came out of the network."""
    return _decide(self, inputs.as_real(features, "features"))


class Spectrum(NamedTuple):
  """Z = U diag(values) Vᵀ and the targets in its basis, of n standardised examples.

  Attributes:
    values: [D] singular values.
    right: [D, D], row i is vᵢ.
    targets: [D, K] Uᵀ (Y − ȳ).
    share: [K] ȳ, the share of each class.
    count: [] n.
  """

  values: Array
  right: Array
  targets: Array
  share: Array
  count: Array


def ridge(train, labels, num_classes: int, penalties: Sequence[float], mask=None) -> list[Linear]:
  """Ridge regression on one-hot targets, one probe for each penalty; features are standardised.

      min ‖Y − Z B − 1 bᵀ‖² + λ ‖B‖²        λ = penalty · n,  b not penalised

  Collapsed features are ill conditioned, and ZᵀZ would square that: at a penalty of 1e-9 its
  float32 rounding exceeds λ. Here [Z | Y] is factorised, each device its own rows (TSQR), and
  the singular values σ of Z, right to ε σ₁, serve all penalties: B = V diag(σ / (σ² + λ)) Uᵀ Y.
  Of collapsed features and down to 1e-9 the decisions are those of scikit-learn's
  RidgeClassifier(alpha=λ) in float64, ties by rounding aside.

  Args:
    train: [N, D] features, on one device or spread over examples by a NamedSharding.
    labels: [N] integers in [0, K).
    num_classes: K. A class without examples is never decided for.
    penalties: of each probe; above 0 where the features have not full rank.
    mask: [N] bool, False for padding.

  References: Demmel, Grigori, Hoemmen and Langou 2012, SIAM J. Sci. Comput. 34(1), for TSQR.
  """
  train, labels, mask, split = examples(train, labels, mask, "train", num_classes)
  penalties = jnp.asarray(penalties, train.dtype)
  standard, weights, bias = _ridge(train, labels, mask, penalties, num_classes, split)
  return [Linear(standard, weight, bias, jnp.array(True)) for weight in weights]


@jax.jit(static_argnums=(4, 5))
def _ridge(train, labels, mask, penalties, num_classes, split):
  def local(train, labels, mask, penalties, axes):
    standard = fit(train, mask, axes)
    z = standard_rows(standard, train, mask)
    return standard, *solve(factorise(z, one_hot(labels, mask, num_classes), axes), penalties)

  mapped = over_examples(local, split, (ROWS, ROWS, ROWS, WHOLE), WHOLE)
  return mapped(train, labels, mask, penalties)


@jax.jit
def _decide(linear: Linear, features: Array) -> Array:
  return decide(linear.standard.apply(features), linear.weight, linear.bias)


def decide(z: Array, weight: Array, bias: Array) -> Array:
  """[N] the class with the highest score, the first among equals."""
  scores = jnp.matmul(z, weight.T, precision=HIGHEST) + bias
  return jnp.argmax(scores, axis=1).astype(jnp.int32)


def one_hot(labels: Array, mask: Array, num_classes: int) -> Array:
  """[N, K] bool; a row of padding is False."""
  return (labels[:, None] == jnp.arange(num_classes)) & mask[:, None]


def solve(spectrum: Spectrum, penalties: Array) -> tuple[Array, Array]:
  """Ridge weights [P, K, D] of P penalties, and the bias [K] that they share."""
  values, right, targets, share, count = spectrum
  shrunk = values / (values**2 + penalties[:, None] * count)
  weights = jnp.einsum("pi,ik,id->pkd", shrunk, targets, right, precision=HIGHEST)
  return weights, jnp.where(share > 0, share, -jnp.inf)


def factorise(z: Array, hot: Array, axes: tuple[str, ...]) -> Spectrum:
  """The spectrum of z [N, D] and its one-hot targets [N, K], of this device's rows of each."""
  dim = z.shape[1]
  sums = total(jnp.sum(hot, axis=0, dtype=z.dtype), axes)
  count = jnp.sum(sums)
  share = sums / count
  triangle = _triangle(z, hot, share)
  if axes:
    triangle = jnp.linalg.qr(gathered(triangle, axes), mode="r")
  left, values, right = thin_svd(triangle[:dim, :dim])
  # A dead unit has no weight, not one of rounding: it may come alive on the test split.
  right = jnp.where(jnp.any(triangle[:, :dim] != 0, axis=0), right, 0)
  targets = jnp.matmul(left.T, triangle[:dim, dim:], precision=HIGHEST)
  spectrum = Spectrum(values, right, targets, share, count)
  return jax.tree.map(lambda x: of_first(x, axes), spectrum)


def _triangle(z: Array, hot: Array, share: Array) -> Array:
  """[D + K, D + K] upper triangular R of [Z | Y − ȳ] = Q R, chunk by chunk."""
  (size, dim), num_classes = z.shape, hot.shape[1]
  width = dim + num_classes
  chunks = max(1, size // max(CHUNK, 4 * width))  # the triangle costs a quarter at most
  rows = -(-size // chunks)

  def take(chunk):
    here = jnp.minimum(chunk * rows, size - rows)
    part, own = (lax.dynamic_slice_in_dim(x, here, rows) for x in (z, hot))
    centred = jnp.where(jnp.any(own, axis=1)[:, None], own - share, 0)
    again = here + jnp.arange(rows) < chunk * rows  # the last chunk starts early
    return jnp.where(again[:, None], 0, jnp.concatenate([part, centred], axis=1))

  def step(triangle, chunk):
    return jnp.linalg.qr(jnp.concatenate([triangle, take(chunk)]), mode="r"), None

  if chunks > 1:
    return lax.scan(step, jnp.zeros((width, width), z.dtype), jnp.arange(chunks))[0]
  missing = max(0, width - rows)  # fewer examples than columns: zeros make the factor square
  return jnp.linalg.qr(jnp.pad(take(0), ((0, missing), (0, 0))), mode="r")
