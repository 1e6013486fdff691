"""Schedules at their corners, and optimisers against their formulas in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nc_jax.errors import UserError
from nc_jax.training import optim

RATES = (0.1, 0.1, 0.02)  # a step schedule of three steps
DECAY = 0.03


def schedule():
  return optim.build_schedule("step", peak=0.1, total_steps=3, decay_at=(2 / 3,), decay_factor=0.2)


def params():
  rng = np.random.default_rng(0)
  return {
    "bias": rng.normal(size=5),
    "matrix": rng.normal(size=(4, 5)),
    "head": rng.normal(size=(4, 5)),
    "conv": rng.normal(size=(3, 3, 2, 4)),
    "position": rng.normal(size=(1, 3, 2)),
  }


def slope(theta):
  """The gradient of Σ (θ⁴/4 − θ), leaf by leaf."""
  return jax.tree.map(lambda x: x**3 - 1, theta)


def three_steps(optimiser):
  theta = jax.tree.map(jnp.float32, params())
  optimiser = optax.with_extra_args_support(optimiser)

  @jax.jit
  def one_step(theta, state):
    grad_fn = lambda elsewhere, _: slope(elsewhere)
    updates, state = optimiser.update(slope(theta), state, theta, grad_fn=grad_fn)
    return optax.apply_updates(theta, updates), state

  state = optimiser.init(theta)
  for _ in RATES:
    theta, state = one_step(theta, state)
  return theta


def sgd(momentum, nesterov, gradient=slope):
  theta, velocity = params(), jax.tree.map(np.zeros_like, params())
  for rate in RATES:
    for name, g in gradient(theta).items():
      g = g + DECAY * theta[name]
      velocity[name] = momentum * velocity[name] + g
      step = g + momentum * velocity[name] if nesterov else velocity[name]
      theta[name] = theta[name] - rate * step
  return theta


def adam(name, nesterov=False):
  theta = params()[name]
  m = v = 0
  for t, rate in enumerate(RATES, start=1):
    g = slope(theta)
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    mean = ahead(m, g, t) if nesterov else m / (1 - 0.9**t)
    step = mean / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    theta = theta - rate * (step + DECAY * theta)
  return theta


def ahead(m, g, t):
  """Nesterov's mean of gradients: what m would be if g came once more."""
  return 0.9 * m / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)


def close(theta, expected):
  assert theta.keys() == expected.keys()
  for name in theta:
    np.testing.assert_allclose(theta[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(nesterov):
  optimiser = optim.build(
    "sgd", schedule(), weight_decay=DECAY, momentum=0.8, nesterov=nesterov, rho=None
  )
  close(three_steps(optimiser), sgd(0.8, nesterov))


def test_sam_descends_by_the_gradient_uphill():
  """The radius is that of all parameters together; the decay is left out of the ascent."""

  def uphill(theta):
    gradient = slope(theta)
    norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
    return slope({name: theta[name] + 0.3 * gradient[name] / norm for name in theta})

  optimiser = optim.build("sam", schedule(), weight_decay=DECAY, rho=0.3)
  close(three_steps(optimiser), sgd(0.9, False, uphill))


def test_sam_stands_still_where_the_gradient_is_zero():
  optimiser = optim.build("sam", schedule(), weight_decay=0.0)
  zero = {"x": jnp.zeros(3)}
  update, _ = optimiser.update(zero, optimiser.init(zero), zero, grad_fn=lambda *_: zero)
  assert not update["x"].any()


def test_adamw():
  optimiser = optim.build("adamw", schedule(), weight_decay=DECAY)
  close(three_steps(optimiser), {name: adam(name) for name in params()})


def orthogonalised(matrix):
  x = matrix / np.linalg.norm(matrix)
  for _ in range(5):
    square = x @ x.T
    x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
  return x


def test_muon_orthogonalises_the_body_s_matrices_and_leaves_the_rest_to_adamw():
  def muon(name, rows):
    theta = params()[name]
    shape, theta = theta.shape, theta.reshape(rows, -1)
    m = 0
    for t, rate in enumerate(RATES, start=1):
      g = slope(theta)
      m = 0.9 * m + 0.1 * g
      step = 0.2 * np.sqrt(max(theta.shape)) * orthogonalised(ahead(m, g, t))
      theta = theta - rate * (step + DECAY * theta)
    return theta.reshape(shape)

  optimiser = optim.build("muon", schedule(), weight_decay=DECAY, momentum=0.9)
  expected = {
    "bias": adam("bias", nesterov=True),
    "matrix": muon("matrix", 4),
    "head": adam("head", nesterov=True),
    "conv": muon("conv", 18),
    "position": adam("position", nesterov=True),
  }
  close(three_steps(optimiser), expected)


def test_schedules_at_their_corners():
  at = lambda name, steps, **options: [
    float(optim.build_schedule(name, peak=0.1, total_steps=300, **options)(t)) for t in steps
  ]
  close_to = lambda values: pytest.approx(values, rel=1e-5, abs=1e-9)
  thirds = (0, 99, 101, 199, 201, 299)
  assert at("step", thirds) == close_to([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
  assert at("step", (29, 31, 299), decay_at=(0.1,), decay_factor=0.5) == close_to([0.1, 0.05, 0.05])
  assert at("cosine", (0, 100, 150, 300)) == close_to([0.1, 0.075, 0.05, 0])
  assert at("constant", (0, 299)) == close_to([0.1, 0.1])
  assert at("constant", (0, 4, 9, 299), warmup_steps=10) == close_to([0.01, 0.05, 0.1, 0.1])
  assert at("step", (0, 9, 101), warmup_steps=10) == close_to([0.01, 0.1, 0.01])
  assert at("cosine", (0, 150), warmup_steps=10) == close_to([0.01, 0.05])


def test_an_option_of_another_is_refused():
  with pytest.raises(UserError, match="config.optim.momentum = 0.9, but adamw has no such option"):
    optim.build("adamw", schedule(), weight_decay=0.1, momentum=0.9)
  with pytest.raises(UserError, match="config.optim.decay_factor = 0.1, but cosine has no such op"):
    optim.build_schedule("cosine", peak=0.1, total_steps=3, decay_at=None, decay_factor=0.1)
