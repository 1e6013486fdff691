"""Multinomial logistic regression on all examples at once, by L-BFGS."""

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from nc_jax.metrics.products import HIGHEST
from nc_jax.training.probes.devices import ROWS, WHOLE, over_examples, total
from nc_jax.training.probes.examples import examples
from nc_jax.training.probes.linear import Linear, Spectrum, factorise, one_hot
from nc_jax.training.probes.standard import fit, standard_rows

TOLERANCE = 1e-4  # of the preconditioned gradient's norm, relative to the root of the objective
ITERATIONS = 1000


def logistic(train, labels, num_classes: int, penalty: float, mask=None) -> Linear:
  """Multinomial logistic regression; features are standardised.

      min (1/n) Σ −log softmax(W zᵢ + b)[yᵢ] + penalty/2 ‖W‖²        b not penalised

  L-BFGS in coordinates in which the Hessian at W = 0 is about the identity, which the singular
  values σ of the features give: W = W' diag(p) Vᵀ, p = (σ² / (n K) + penalty)^(−½). It ends
  when the gradient g in these coordinates has ‖g‖² ≤ 1e-8 objective, which is about how far the
  objective then lies above its minimum; or after 1000 iterations, or when it can no longer move.
  `converged` tells whether it was the first.

  With more than two classes this is scikit-learn's LogisticRegression(C=1/(penalty n)). For two
  classes that one penalises the difference of the rows of W, which here is twice as costly:
  C = 2/(penalty n).

  Args:
    train: [N, D] features, on one device or spread over examples by a NamedSharding.
    labels: [N] integers in [0, K).
    num_classes: K. A class without examples is never decided for.
    penalty: above 0; without it separable classes have no minimum.
    mask: [N] bool, False for padding.
  """
  train, labels, mask, split = examples(train, labels, mask, "train", num_classes)
  return _logistic(train, labels, mask, jnp.asarray(penalty, train.dtype), num_classes, split)


@jax.jit(static_argnums=(4, 5))
def _logistic(train, labels, mask, penalty, num_classes, split) -> Linear:
  def local(train, labels, mask, penalty, axes):
    standard = fit(train, mask, axes)
    z, hot = standard_rows(standard, train, mask), one_hot(labels, mask, num_classes)
    return standard, *minimise(z, hot, factorise(z, hot, axes), penalty, axes)

  mapped = over_examples(local, split, (ROWS, ROWS, ROWS, WHOLE), WHOLE)
  return Linear(*mapped(train, labels, mask, penalty))


def minimise(
  z: Array, hot: Array, spectrum: Spectrum, penalty: Array, axes: tuple[str, ...]
) -> tuple[Array, Array, Array]:
  """Weights [K, D], bias [K] and whether it converged, of this device's z [N, D], hot [N, K]."""
  values, right, _, share, count = spectrum
  present = share > 0
  curvature = values**2 / (count * jnp.sum(present)) + penalty
  # One more coordinate, for the bias, of a feature that is always 1.
  scale = jnp.append(1 / jnp.sqrt(curvature), jnp.sqrt(jnp.sum(present).astype(z.dtype)))
  costs = penalty * scale.at[-1].set(0) ** 2
  rows = jnp.matmul(z, right.T, precision=HIGHEST)
  rows = jnp.concatenate([rows, jnp.ones_like(z[:, :1])], axis=1)
  objective = _objective(rows, hot, present, scale, costs, count, axes)

  bias = jnp.log(jnp.where(present, share, 1)) / scale[-1]
  start = jnp.zeros((len(scale), len(share)), z.dtype).at[-1].set(bias)
  solution, converged = lbfgs(objective, start)
  solution = scale[:, None] * solution
  weight = jnp.matmul(solution[:-1].T, right, precision=HIGHEST)
  return weight, jnp.where(present, solution[-1], -jnp.inf), converged


def lbfgs(objective, start: Array) -> tuple[Array, Array]:
  """The minimum of a differentiable function near `start`, and whether it was reached."""
  optimiser = optax.lbfgs(memory_size=20)

  def reached(value, gradient):
    return jnp.sum(gradient**2) <= TOLERANCE**2 * value

  def goes_on(state):
    _, value, gradient, _, step, moved = state
    return ~reached(value, gradient) & (step < ITERATIONS) & moved

  def step(state):
    x, value, gradient, inner, count, _ = state
    update, inner = optimiser.update(
      gradient, inner, x, value=value, grad=gradient, value_fn=objective
    )
    search = inner[-1]  # the line search has computed the next value and gradient
    moved = jnp.any(x + update != x)
    return x + update, search.value, search.grad, inner, count + 1, moved

  value, gradient = jax.value_and_grad(objective)(start)
  state = (start, value, gradient, optimiser.init(start), 0, jnp.array(True))
  x, value, gradient, *_ = lax.while_loop(goes_on, step, state)
  return x, reached(value, gradient)


def _objective(rows, hot, present, scale, costs, count, axes):
  """x [D + 1, K] -> the objective, its gradient in closed form and summed over devices.

  An example's loss is taken from the scores relative to that of its class: near interpolation
  it is log1p of something small, to full precision, and so is the gradient.
  """
  counts = jnp.any(hot, axis=1)

  def value_and_gradient(x):
    scores = jnp.matmul(rows, scale[:, None] * x, precision=HIGHEST)
    about = scores - jnp.sum(jnp.where(hot, scores, 0), axis=1, keepdims=True)
    about = jnp.where(present, about, -jnp.inf)
    top = jnp.maximum(jnp.max(about, axis=1, keepdims=True), 0)
    powers = jnp.where(hot, 0, jnp.exp(about - top))
    others, own = jnp.sum(powers, axis=1, keepdims=True), jnp.exp(-top)
    losses = jnp.where(top > 0, top + jnp.log(others + own), jnp.log1p(others))
    slopes = jnp.where(hot, -others, powers) / (others + own)
    slopes = jnp.where(counts[:, None], slopes, 0)
    loss = jnp.sum(jnp.where(counts, losses[:, 0], 0))
    gradient = jnp.matmul(rows.T, slopes, precision=HIGHEST)
    loss, gradient = total((loss, gradient), axes)
    value = loss / count + jnp.sum(costs[:, None] * x**2) / 2
    return value, scale[:, None] * gradient / count + costs[:, None] * x

  @jax.custom_vjp  # a transposed psum would count every device's gradient on every device
  def objective(x):
    return value_and_gradient(x)[0]

  objective.defvjp(value_and_gradient, lambda gradient, cotangent: (cotangent * gradient,))
  return objective
