"""Optimisers by name, and the piecewise-constant schedule, from plain arguments."""

from collections.abc import Sequence

import optax


def piecewise(peak: float, total_steps: int, decay_at: Sequence[float], factor: float):
  """The rate `peak * factor ** (decays so far)`; `decay_at` are shares of `total_steps`."""
  boundaries = {round(share * total_steps): factor for share in decay_at}
  return optax.piecewise_constant_schedule(peak, boundaries)


def sgd(schedule, momentum: float, weight_decay: float) -> optax.GradientTransformation:
  """Stochastic gradient descent with heavy-ball momentum, as in Papyan et al. 2020.

      g ← ∇L + weight_decay · θ        (every parameter: kernels, biases, norm scales)
      v ← momentum · v + g
      θ ← θ − rate · v

  This is PyTorch's `SGD(weight_decay=...)`: the decay enters the momentum, unlike AdamW's.
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=momentum)
  )


OPTIMISERS = {"sgd": sgd}
