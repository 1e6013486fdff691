"""The training program: many data-parallel steps in one pmapped call."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nc_jax.training.models import PENULTIMATE

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


def make_apply(model, scale: np.ndarray, shift: np.ndarray, dtype=jnp.float32) -> Callable:
  """The network as a function of bytes: (variables, uint8 images, **options) -> (logits, taps).

  It sees `images * scale + shift`, computed in float32 and rounded to `dtype`.
  """

  def apply(variables, images, **options):
    images = (images.astype(jnp.float32) * scale + shift).astype(dtype)
    return model.apply(variables, images, **options)

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
  apply: Callable,
  loss: Callable,
  optimiser: optax.GradientTransformation,
  feed_axis: int | None,
  augment: Callable | None = None,
  seed: int = 0,
):
  """The compiled program (state, images, labels, index [T, L, B]) -> (state, sums of T steps).

  Gradients, losses and, inside the norms, batch statistics are averaged over all devices, local
  and remote, so that n devices take the step that one would take. The state is donated.

  Args:
    apply: (variables, images, train, mutable) -> (logits, taps), updates.
    loss: (logits, labels, penultimate features) -> [B].
    optimiser: may ask for gradients elsewhere, as SAM does: it is given `grad_fn(params, _)`, the
      gradient on the same batch. Batch statistics are those at the state's own parameters.
    feed_axis: the device axis of images and labels, None if every device holds all of them.
    augment: (uint8 images [B, H, W, C], keys [B]) -> images, or None.
    seed: of the keys that `augment` gets.

  Returns per step: {"loss": float32 [T], mean over the global batch; "error": float32 [T], its
  share of wrong decisions}.
  """
  optimiser = optax.with_extra_args_support(optimiser)

  def one_step(state: TrainState, images, labels):
    if augment is not None:
      images = augment(images, example_keys(seed, state.step, len(labels)))

    def objective(params):
      variables = {"params": params, "batch_stats": state.batch_stats}
      (logits, taps), updates = apply(variables, images, train=True, mutable=["batch_stats"])
      wrong = jnp.mean(jnp.argmax(logits, -1) != labels)
      value = jnp.mean(loss(logits, labels, taps[PENULTIMATE]))
      return value, (wrong, updates.get("batch_stats", {}))

    differentiate = jax.value_and_grad(objective, has_aux=True)
    (value, (wrong, batch_stats)), gradient = differentiate(state.params)
    gradient, value, wrong = jax.lax.pmean((gradient, value, wrong), AXIS)
    updates, opt_state = optimiser.update(
      gradient,
      state.opt_state,
      state.params,
      grad_fn=lambda params, _: jax.lax.pmean(differentiate(params)[1], AXIS),
    )
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


def example_keys(seed: int, step: jax.Array, number: int) -> jax.Array:
  """A key for each of this device's `number` examples, inside pmap.

  It depends on the seed, the step and the example's place in the global batch, and not on how
  many devices share the batch.
  """
  key = jax.random.fold_in(jax.random.key(seed), step)
  slot = jax.lax.axis_index(AXIS) * number + jnp.arange(number)
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, slot)
