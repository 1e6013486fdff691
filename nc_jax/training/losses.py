"""Losses by name: (logits [B, K], labels [B]) -> loss of each example [B]."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """`-log softmax(logits)[label]`, in nats."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def squared_error(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """`(1/K) Σ_k (logit_k - [k = label])²`: the mean over classes, without a factor 1/2.

  Hui & Belkin 2020, arXiv 2006.07322.
  """
  return jnp.mean((logits - jax.nn.one_hot(labels, logits.shape[-1])) ** 2, axis=-1)


LOSSES = {"cross_entropy": cross_entropy, "squared_error": squared_error}
