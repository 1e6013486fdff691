"""Losses by name. Each builds (logits [B, K], labels [B], features [B, D]) -> one loss each [B].

`features` is what the head reads. Losses made of logarithms are in nats.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from nc_jax.errors import UserError
from nc_jax.training.choices import choose

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def cross_entropy() -> Loss:
  """`−log p_y` with `p = softmax(logits)` and label y."""
  return lambda logits, labels, features: _cross_entropy(logits, labels)


def label_smoothing(*, smoothing: float = 0.1) -> Loss:
  """Cross-entropy against `(1 − s)·onehot(y) + s/K`; its minimum is the targets' entropy, not 0.

  Szegedy et al. 2016, arXiv 1512.00567. Its collapse: Zhou et al. 2022, arXiv 2210.02192.
  """

  def loss(logits, labels, features):
    uniform = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
    return (1 - smoothing) * _cross_entropy(logits, labels) + smoothing * uniform

  return loss


def focal(*, gamma: float = 2.0) -> Loss:
  """`−(1 − p_y)^γ · log p_y`; cross-entropy at γ = 0. Without the paper's class weights α.

  Lin et al. 2017, arXiv 1708.02002. Its collapse: Zhou et al. 2022, arXiv 2210.02192.
  """

  def loss(logits, labels, features):
    log_p = jax.nn.log_softmax(logits)
    # log(1 − p_y) from the other classes: finite, and so is its gradient, where p_y rounds to 1
    others = jnp.where(_one_hot(labels, logits) > 0, -jnp.inf, log_p)
    log_miss = jax.scipy.special.logsumexp(others, axis=-1)
    return jnp.exp(gamma * log_miss) * _cross_entropy(logits, labels)

  return loss


def squared_error() -> Loss:
  """`(1/K) Σ_k (logit_k − [k = y])²`: the mean over classes, without a factor 1/2.

  Hui & Belkin 2020, arXiv 2006.07322. Its collapse: Han et al. 2021, arXiv 2106.02073.
  """
  return rescaled_squared_error(k=1.0, M=1.0)


def rescaled_squared_error(*, k: float = 1.0, M: float = 15.0) -> Loss:
  """`(1/K) (k·(logit_y − M)² + Σ_{j≠y} logit_j²)`; with k = M = 1 the plain squared error.

  Made for many classes. Hui & Belkin 2020, arXiv 2006.07322: (k, M) = (1, 15), ImageNet (15, 30).
  """

  def loss(logits, labels, features):
    target = _one_hot(labels, logits)
    return jnp.mean((1 + (k - 1) * target) * (logits - M * target) ** 2, axis=-1)

  return loss


def supervised_contrastive(*, temperature: float = 0.1, axis_name: str | None = None) -> Loss:
  """L_out on the features, plus cross-entropy for the head. With z = h/‖h‖:

      L_i = −1/|P_i| Σ_{p ∈ P_i} log( exp(z_i·z_p/τ) / Σ_{a ≠ i} exp(z_i·z_a/τ) )  +  CE(logits_i)

  a runs over the other examples of the global batch (gathered over the device axis
  `axis_name`), P_i over those of them with i's label. An anchor without any, P_i = ∅, has no
  contrastive loss, but counts in the mean. So the value depends on the size of the batch. Here
  the features are contrasted as they are: no projection head, and one view of each image.

  The head must be `detached` (see FEATURE_LOSSES): it learns from cross-entropy, and the body
  from the contrast alone. Only the directions of the features collapse, so measure them on the
  sphere: head.normalise = True.

  Khosla et al. 2020, arXiv 2004.11362. Its collapse: Graf et al. 2021, arXiv 2102.08817; behind
  a ReLU to orthogonal directions: Kini et al. 2023, arXiv 2306.07960.
  """

  def loss(logits, labels, features):
    features = features.astype(jnp.float32)
    # max(‖h‖², tiny) keeps the gradient of a feature vector of zeros finite
    square = jnp.sum(features**2, axis=-1, keepdims=True)
    own = features * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
    everyone, everyones = own, labels
    place = jnp.arange(len(labels))
    if axis_name is not None:
      everyone = jax.lax.all_gather(own, axis_name, tiled=True)
      everyones = jax.lax.all_gather(labels, axis_name, tiled=True)
      place += jax.lax.axis_index(axis_name) * len(labels)
    other = place[:, None] != jnp.arange(len(everyones))
    alike = other & (labels[:, None] == everyones)
    cosine = jnp.matmul(own, everyone.T, precision=jax.lax.Precision.HIGHEST)
    log_p = jax.nn.log_softmax(cosine / temperature, axis=-1, where=other)
    number = jnp.sum(alike, axis=-1)
    contrast = -jnp.sum(log_p, axis=-1, where=alike) / jnp.maximum(number, 1)
    return contrast + _cross_entropy(logits, labels)

  return loss


def logit_adjusted(*, class_counts: Sequence[int], tau: float = 1.0) -> Loss:
  """Cross-entropy of `logit_k + τ log π_k`, π the train set's class shares; for imbalance.

  Decisions are taken on the plain logits. With equal counts it is cross-entropy.
  Menon et al. 2020, arXiv 2007.07314.
  """
  return vector_scaling(class_counts=class_counts, gamma=0.0, tau=tau)


def vector_scaling(
  *, class_counts: Sequence[int], gamma: float = 0.15, tau: float = 1.25
) -> Loss:
  """The VS loss: cross-entropy of `Δ_k logit_k + τ log π_k`, with `Δ_k = (n_k / max n)^γ`.

  Class counts n and shares π are those of the train set; decisions are taken on the plain
  logits. With γ = 0 it is the logit-adjusted loss, with equal counts cross-entropy. The weights
  ω of the paper are 1. Kini et al. 2021, arXiv 2103.01550.
  """
  counts = np.asarray(class_counts, np.float64)
  if not counts.all():
    raise UserError(
      "config.loss.name: a loss for imbalance needs train examples of every class, but class "
      f"{int(np.argmin(counts))} has none."
    )
  scale = np.float32(counts / counts.max()) ** gamma
  shift = tau * np.float32(np.log(counts / counts.sum()))
  return lambda logits, labels, features: _cross_entropy(scale * logits + shift, labels)


def _one_hot(labels, logits):
  return jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)


def _cross_entropy(logits, labels):
  log_p = jax.nn.log_softmax(logits)
  return -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]


LOSSES = {
  "cross_entropy": cross_entropy,
  "label_smoothing": label_smoothing,
  "focal": focal,
  "squared_error": squared_error,
  "rescaled_squared_error": rescaled_squared_error,
  "supervised_contrastive": supervised_contrastive,
  "logit_adjusted": logit_adjusted,
  "vs": vector_scaling,
}

# These train the body through its features: their head must be detached, lest it do so too.
FEATURE_LOSSES = frozenset({"supervised_contrastive"})
# These compare the examples of a batch with one another.
BATCH_LOSSES = frozenset({"supervised_contrastive"})
# These look at the class sizes of the train set.
FREQUENCY_LOSSES = frozenset({"logit_adjusted", "vs"})


def build(
  name: str, *, class_counts: Sequence[int] | None = None, axis_name: str | None = None, **options
) -> Loss:
  """The loss `name`. Options are keys of config.loss; None stands for the loss's own default.

  Args:
    class_counts: [K], of the train set.
    axis_name: the device axis over which a batch is spread; None outside of pmap.

  Raises UserError for an option that this loss does not take.
  """
  return choose("loss", LOSSES, name, options, class_counts=class_counts, axis_name=axis_name)
