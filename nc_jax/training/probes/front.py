"""All probes of one layer, in one program."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from nc_jax.training.probes.devices import ROWS, WHOLE, over_examples
from nc_jax.training.probes.examples import examples
from nc_jax.training.probes.linear import decide, factorise, one_hot, solve
from nc_jax.training.probes.multinomial import minimise
from nc_jax.training.probes.neighbours import candidates_for, vote
from nc_jax.training.probes.standard import fit, standard_rows

KINDS = ("ridge", "logistic", "knn")


class Probed(NamedTuple):
  """What became of one probe."""

  correct: Array  # [N_test] bool, which test examples it gets right; False for padding
  converged: bool  # False only of a logistic regression that did not come to its end


def probe(
  train_features,
  train_labels,
  test_features,
  test_labels,
  num_classes: int,
  *,
  ridge: Sequence[float] = (1e-3,),
  logistic: Sequence[float] = (1e-3,),
  knn: Sequence[int] = (5,),
  train_mask=None,
  test_mask=None,
) -> dict[str, Probed]:
  """Which test examples the probes of the train split get right, by "ridge/0.001" and so on.

  The same numbers as `ridge`, `logistic` and `knn` one by one, on features standardised by the
  train split, from one factorisation and one compiled program for each shape: other labels,
  penalties or k compile nothing new.

  Args:
    train_features: [N, D], on one device or spread over examples by a NamedSharding.
    train_labels: [N] integers in [0, K).
    test_features: [N_test, D].
    test_labels: [N_test] integers in [0, K).
    num_classes: K.
    ridge: penalties λ/n.
    logistic: penalties.
    knn: numbers of neighbours.
    train_mask: [N] bool, False for padding.
    test_mask: [N_test] bool, False for padding.

  Returns: {"kind/parameter": Probed}.
  """
  train, labels, mask, split = examples(
    train_features, train_labels, train_mask, "train_features", num_classes
  )
  test, test_labels, test_mask, _ = examples(
    test_features, test_labels, test_mask, "test_features", num_classes, split
  )
  if test.shape[1] != train.shape[1]:
    raise ValueError(
      f"test_features must have shape [N, D] = [N, {train.shape[1]}]; got {list(test.shape)}"
    )
  parameters = {"ridge": ridge, "logistic": logistic, "knn": knn}
  parameters = {kind: tuple(values) for kind, values in parameters.items()}
  for kind, values in parameters.items():
    if any(value <= 0 for value in values):
      raise ValueError(f"{kind} must hold numbers above 0; got {values}")
  keys = [f"{kind}/{value:g}" for kind, values in parameters.items() for value in values]
  if not keys:
    return {}
  numbers = tuple(
    np.asarray(values, np.int32 if kind == "knn" else train.dtype)
    for kind, values in parameters.items()
  )
  candidates = candidates_for(parameters["knn"])
  correct, converged = _probe(
    (train, labels, mask), (test, test_labels, test_mask), numbers, num_classes, candidates, split
  )
  ended = dict.fromkeys(keys, True)
  ended |= zip((f"logistic/{value:g}" for value in logistic), np.asarray(converged), strict=True)
  return {key: Probed(correct[:, i], bool(ended[key])) for i, key in enumerate(keys)}


@jax.jit(static_argnums=(3, 4, 5))
def _probe(train, test, numbers, num_classes, candidates, split) -> tuple[Array, Array]:
  """[N_test, P] bool of P probes, and whether each logistic regression converged."""

  def local(features, labels, mask, test, test_labels, test_mask, ridge, logistic, knn, axes):
    standard = fit(features, mask, axes)
    z, hot = standard_rows(standard, features, mask), one_hot(labels, mask, num_classes)
    test, decisions, converged = standard.apply(test), [], jnp.ones(0, bool)
    if len(ridge) or len(logistic):
      spectrum = factorise(z, hot, axes)
    if len(ridge):
      weights, bias = solve(spectrum, ridge)
      decisions += [decide(test, weight, bias) for weight in weights]
    if len(logistic):
      fits = lax.map(lambda penalty: minimise(z, hot, spectrum, penalty, axes), logistic)
      decisions += [decide(test, weight, bias) for weight, bias in zip(*fits[:2], strict=True)]
      converged = fits[2]
    if len(knn):
      decisions += list(vote(z, labels, mask, test, knn, num_classes, candidates, axes))
    correct = [(decision == test_labels) & test_mask for decision in decisions]
    return jnp.stack(correct, axis=1), converged

  arguments = (ROWS,) * 6 + (WHOLE,) * 3
  return over_examples(local, split, arguments, (ROWS, WHOLE))(*train, *test, *numbers)


def ceiling(train_coarse, train_fine, test_coarse, test_fine) -> np.ndarray:
  """What any probe gets right once features have collapsed to one point per coarse class.

      Σ_j P(coarse = j, fine = c_j) on the test set,   c_j the most frequent c in j on the train set

  The F2 ceiling: with s equally likely fine classes in each coarse one it is 1/s. Nothing is left
  to a probe but to name one fine class for each point, and only the train set can say which.

  Args:
    train_coarse: [N] integers >= 0, the point of each example: its coarse class.
    train_fine: [N] integers >= 0.
    test_coarse: [N_test] integers, each among those of the train set.
    test_fine: [N_test].

  Returns: bool [N_test], which of the test examples it gets right; the ceiling is their share.
  """
  pairs = []
  given = ("train", train_coarse, train_fine), ("test", test_coarse, test_fine)
  for split, coarse, fine in given:
    coarse, fine = np.asarray(coarse), np.asarray(fine)
    if coarse.shape != fine.shape or coarse.ndim != 1 or not coarse.size:
      raise ValueError(
        f"{split}_coarse and {split}_fine must have one shape [N], N > 0; got {coarse.shape} and "
        f"{fine.shape}"
      )
    pairs.append((coarse, fine))
  (coarse, fine), (test_coarse, test_fine) = pairs
  joint = np.zeros((coarse.max() + 1, fine.max() + 1))
  np.add.at(joint, (coarse, fine), 1)
  return joint.argmax(axis=1)[test_coarse] == test_fine
