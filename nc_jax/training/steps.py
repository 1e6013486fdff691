"""The training program: many data-parallel steps in one pmapped call."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"


@flax.struct.dataclass
class TrainState:
  """Everything that training changes. Replicated over the devices without a device axis."""

  step: jax.Array  # int32 [], steps taken
  params: Any
  batch_stats: Any  # running mean and variance of the norms
  opt_state: Any

  @property
  def variables(self):
    return {"params": self.params, "batch_stats": self.batch_stats}


def replicate(tree):
  """Places a tree whole on every local device.

  The mesh's axis bears the name of pmap's: only so does pmap take the arrays as they are,
  without a second compilation and, when donated, without a copy.
  """
  here = Mesh(np.array(jax.local_devices()), (AXIS,))
  return jax.device_put(tree, NamedSharding(here, PartitionSpec()))


def make_apply(model, scale: np.ndarray, shift: np.ndarray) -> Callable:
  """The network as a function of bytes: (variables, uint8 images, **options) -> (logits, taps)."""

  def apply(variables, images, **options):
    return model.apply(variables, images.astype(jnp.float32) * scale + shift, **options)

  return apply


def init_state(model, optimiser, images: np.ndarray, seed: int) -> TrainState:
  """The untrained state: a function of the seed and of the images' shape alone."""
  # Init is compiled once and run once: spend nothing on optimising it.
  quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
  options = quick if jax.default_backend() == "cpu" else None
  init = jax.jit(lambda key, x: model.init(key, x, train=False), compiler_options=options)
  variables = init(jax.random.key(seed), jnp.zeros((1, *images.shape[1:]), jnp.float32))
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    params=variables["params"],
    batch_stats=variables.get("batch_stats", {}),
    opt_state=optimiser.init(variables["params"]),
  )
  return replicate(state)


def make_train(
  apply: Callable, loss: Callable, optimiser: optax.GradientTransformation, feed_axis: int | None
):
  """The compiled program (state, images, labels, index [T, L, B]) -> (state, sums of T steps).

  Gradients, losses and, inside the norms, batch statistics are averaged over all devices, local
  and remote, so that n devices take the step that one would take. The state is donated.

  Returns per step: {"loss": float32 [T], mean over the global batch; "error": float32 [T], its
  share of wrong decisions}.
  """

  def one_step(state: TrainState, images, labels):
    def objective(params):
      variables = {"params": params, "batch_stats": state.batch_stats}
      (logits, _), updates = apply(variables, images, train=True, mutable=["batch_stats"])
      wrong = jnp.mean(jnp.argmax(logits, -1) != labels)
      return jnp.mean(loss(logits, labels)), (wrong, updates.get("batch_stats", {}))

    (value, (wrong, batch_stats)), gradient = jax.value_and_grad(objective, has_aux=True)(
      state.params
    )
    gradient, value, wrong = jax.lax.pmean((gradient, value, wrong), AXIS)
    updates, opt_state = optimiser.update(gradient, state.opt_state, state.params)
    state = TrainState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    return state, {"loss": value, "error": wrong}

  def train(state, images, labels, index):
    return jax.lax.scan(lambda s, ids: one_step(s, images[ids], labels[ids]), state, index)

  return jax.pmap(
    train,
    axis_name=AXIS,
    in_axes=(None, feed_axis, feed_axis, 1),
    out_axes=None,
    donate_argnums=0,
  )
