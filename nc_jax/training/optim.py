"""Optimisers and learning-rate schedules by name, from plain arguments."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from nc_jax.training.choices import choose

Schedule = Callable[[int], float]

# --- Schedules: the step in, the rate out ---------------------------------------------------------


def constant(*, peak: float, total_steps: int) -> Schedule:
  """The rate `peak`, always."""
  return optax.constant_schedule(peak)


def step(
  *,
  peak: float,
  total_steps: int,
  decay_at: Sequence[float] = (1 / 3, 2 / 3),
  decay_factor: float = 0.1,
) -> Schedule:
  """The rate `peak · decay_factor ** (decays so far)`; `decay_at` are shares of `total_steps`."""
  boundaries = {round(share * total_steps): decay_factor for share in decay_at}
  return optax.piecewise_constant_schedule(peak, boundaries)


def cosine(*, peak: float, total_steps: int) -> Schedule:
  """The rate `peak · (1 + cos(π t / total_steps)) / 2`, which ends at 0.

  Loshchilov & Hutter 2016, arXiv 1608.03983, without restarts.
  """
  return optax.cosine_decay_schedule(peak, total_steps)


SCHEDULES = {"step": step, "cosine": cosine, "constant": constant}


def build_schedule(
  name: str, *, peak: float, total_steps: int, warmup_steps: int = 0, **options
) -> Schedule:
  """The schedule `name`, times a linear warm-up: `(t + 1) / warmup_steps` until that is 1.

  Options are keys of config.optim; None stands for the schedule's own default.
  Raises UserError for an option that this schedule does not take.
  """
  rate = choose("optim", SCHEDULES, name, options, peak=peak, total_steps=total_steps)
  if not warmup_steps:
    return rate
  return lambda t: rate(t) * jnp.minimum(1, (t + 1) / warmup_steps)


# --- Optimisers -----------------------------------------------------------------------------------


def sgd(
  schedule: Schedule, *, weight_decay: float, momentum: float = 0.9, nesterov: bool = False
) -> optax.GradientTransformation:
  """Stochastic gradient descent with momentum, as in Papyan et al. 2020, arXiv 2008.08186.

      g ← ∇L + weight_decay · θ        (every parameter: kernels, biases, norm scales)
      v ← momentum · v + g
      θ ← θ − rate · v                 Nesterov: θ ← θ − rate · (g + momentum · v)

  This is PyTorch's `SGD(weight_decay=...)`: the decay enters the momentum, unlike AdamW's.
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.sgd(schedule, momentum=momentum, nesterov=nesterov),
  )


def sam(
  schedule: Schedule,
  *,
  weight_decay: float,
  momentum: float = 0.9,
  nesterov: bool = False,
  rho: float = 0.05,
) -> optax.GradientTransformationExtraArgs:
  """Sharpness-aware minimisation over `sgd`: the step of θ, with the gradient at its worst near by.

      ∇L in `sgd`  ←  ∇L(θ + ρ ∇L(θ)/‖∇L(θ)‖)

  The norm is over all parameters together. Both gradients are of the whole batch and neither
  holds weight decay, which enters as in `sgd`, at θ. An update takes the second gradient as
  `grad_fn(params, _)`. Foret et al. 2020, arXiv 2010.01412.
  """
  ascent = optax.chain(optax.normalize_by_update_norm(eps=1e-12), optax.sgd(rho))
  descent = sgd(schedule, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov)
  return optax.contrib.sam(descent, ascent, opaque_mode=True)


def adamw(schedule: Schedule, *, weight_decay: float) -> optax.GradientTransformation:
  """Adam (0.9, 0.999, ε = 1e-8) with decoupled weight decay, on every parameter.

      θ ← θ − rate · (m̂ / (√v̂ + ε) + weight_decay · θ)

  This is PyTorch's `AdamW`. Loshchilov & Hutter 2017, arXiv 1711.05101.
  """
  return optax.adamw(schedule, weight_decay=weight_decay)


def muon(
  schedule: Schedule, *, weight_decay: float, momentum: float = 0.95, nesterov: bool = True
) -> optax.GradientTransformation:
  """Muon for the body's matrices and convolution kernels, AdamW for all else.

      M ← momentum · M + (1 − momentum) · ∇L                 M̂ its mean, free of the start's bias
      W ← W − rate · (0.2 √max(n, m) · orthogonalised(M̂) + weight_decay · W)

  W is n x m: a kernel [h, w, n', m] counts as [h w n', m]. `orthogonalised` is five
  Newton-Schulz iterations. The factor 0.2 √max(n, m) gives updates the size of AdamW's, so that
  one rate and one (decoupled) weight decay serve both. `nesterov` looks a step ahead, in AdamW's
  mean too. AdamW's are the head, as Muon's author advises, biases, norms and embeddings.

  Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the factor: Liu et al. 2025,
  arXiv 2502.16982.
  """
  return optax.contrib.muon(
    schedule,
    beta=momentum,
    nesterov=nesterov,
    weight_decay=weight_decay,
    adam_weight_decay=weight_decay,
    consistent_rms=0.2,
    muon_weight_dimension_numbers=_matrices,
  )


def _matrices(params):
  """Which axes of each parameter Muon takes for a matrix's; None leaves it to AdamW."""
  axes = {
    2: optax.contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=1),
    4: optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3),
  }
  of = lambda path, x: None if path[0].key == "head" else axes.get(x.ndim)
  return jax.tree.map_with_path(of, params)


OPTIMISERS = {"sgd": sgd, "sam": sam, "adamw": adamw, "muon": muon}


def build(
  name: str, schedule: Schedule, *, weight_decay: float, **options
) -> optax.GradientTransformation:
  """The optimiser `name`. Options are keys of config.optim; None stands for its own default.

  Raises UserError for an option that this optimiser does not take.
  """
  options = {"weight_decay": weight_decay, **options}
  return choose("optim", OPTIMISERS, name, options, schedule=schedule)
