"""The training program: many data-parallel steps in one pmapped call."""

from collections.abc import Callable, Sequence
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
  constants: dict[str, jax.Array]  # `scale` and `shift` of the input; see `together` for others

  @property
  def variables(self):
    """What the network needs to be applied to bytes."""
    return {
      "params": self.params,
      "batch_stats": self.batch_stats,
      "constants": self.constants,
    }


def replicate(tree, devices: Sequence | None = None):
  """Places a tree whole on every local device, or on those given.

  The mesh's axis bears the name of pmap's: only so does pmap take the arrays as they are,
  without a second compilation and, when donated, without a copy.
  """
  here = Mesh(np.array(devices or jax.local_devices()), (AXIS,))
  return jax.device_put(tree, NamedSharding(here, PartitionSpec()))


def make_apply(model, dtype=jnp.float32) -> Callable:
  """The network as a function of bytes: (variables, uint8 images, **options) -> (logits, taps).

  It sees `images * scale + shift`, of the variables' constants, computed in float32 and rounded
  to `dtype`.
  """

  def apply(variables, images, **options):
    variables = dict(variables)
    constants = variables.pop("constants")
    images = images.astype(jnp.float32) * constants["scale"] + constants["shift"]
    return model.apply(variables, images.astype(dtype), **options)

  return apply


def init_state(
  model, optimiser, images: np.ndarray, seed: int, scale: np.ndarray, shift: np.ndarray
) -> TrainState:
  """The untrained state: a function of the seed and of the images' shape, scale and shift alone."""
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
    constants={"scale": jnp.asarray(scale), "shift": jnp.asarray(shift)},
  )
  return replicate(state)


def make_step(
  apply: Callable,
  loss: Callable,
  optimiser: optax.GradientTransformation,
  augment: Callable | None = None,
  seed: int | jax.Array = 0,
  axis_name: str | None = AXIS,
  accumulate: int = 1,
) -> Callable:
  """One step: (state, images [B, ...], labels [B]) -> (state, {"loss": [], "error": []}).

  Args:
    apply: (variables, images, train, mutable) -> (logits, taps), updates.
    loss: (logits, labels, penultimate features) -> [B].
    optimiser: may ask for gradients elsewhere, as SAM does: it is given `grad_fn(params, _)`, the
      gradient on the same batch. Batch statistics are those at the state's own parameters.
    augment: (uint8 images [B, H, W, C], keys [B]) -> images, or None.
    seed: of the keys that `augment` gets.
    axis_name: the device axis over which a batch is spread, and all is averaged; None: it is not.
    accumulate: micro-batches that the batch is cut into; see `in_micro_batches`.
  """
  optimiser = optax.with_extra_args_support(optimiser)
  mean = lambda tree: tree if axis_name is None else jax.lax.pmean(tree, axis_name)

  def one_step(state: TrainState, images, labels):
    if augment is not None:
      images = augment(images, example_keys(seed, state.step, len(labels), axis_name))

    def objective(params, batch_stats, images, labels):
      variables = state.variables | {"params": params, "batch_stats": batch_stats}
      (logits, taps), updates = apply(variables, images, train=True, mutable=["batch_stats"])
      wrong = jnp.mean(jnp.argmax(logits, -1) != labels)
      value = jnp.mean(loss(logits, labels, taps[PENULTIMATE]))
      return value, (wrong, updates.get("batch_stats", {}))

    differentiate = in_micro_batches(jax.value_and_grad(objective, has_aux=True), accumulate)
    batch = state.batch_stats, images, labels
    (value, (wrong, batch_stats)), gradient = differentiate(state.params, *batch)
    gradient, value, wrong = mean((gradient, value, wrong))
    updates, opt_state = optimiser.update(
      gradient,
      state.opt_state,
      state.params,
      grad_fn=lambda params, _: mean(differentiate(params, *batch)[1]),
    )
    state = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    return state, {"loss": value, "error": wrong}

  return one_step


def in_micro_batches(differentiate: Callable, number: int) -> Callable:
  """`differentiate`, but the batch in so many micro-batches, one after another.

  It is (params, batch_stats, images, labels) -> (value, (wrong, batch_stats)), gradient. Values
  and gradients become means over micro-batches: without batch norm those of the whole batch, up
  to rounding. Batch norm takes its statistics from one micro-batch at a time (of all devices), and
  its running statistics move with each, as if they were batches of their own.

  A micro-batch is every `number`-th example, so that it is the same one however many devices
  share the batch.
  """
  if number == 1:
    return differentiate

  def total(params, batch_stats, images, labels):
    def add(carry, batch):
      sums, batch_stats = carry
      (value, (wrong, batch_stats)), gradient = differentiate(params, batch_stats, *batch)
      return (jax.tree.map(jnp.add, sums, (value, wrong, gradient)), batch_stats), None

    cut = lambda x: x.reshape(-1, number, *x.shape[1:]).swapaxes(0, 1)
    nothing = jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
    (sums, batch_stats), _ = jax.lax.scan(add, (nothing, batch_stats), (cut(images), cut(labels)))
    value, wrong, gradient = jax.tree.map(lambda x: x / number, sums)
    return (value, (wrong, batch_stats)), gradient

  return total


def make_train(
  apply: Callable,
  loss: Callable,
  optimiser: optax.GradientTransformation,
  feed_axis: int | None,
  augment: Callable | None = None,
  seed: int = 0,
  accumulate: int = 1,
  axis_name: str | None = AXIS,
  devices: Sequence | None = None,
):
  """The compiled program (state, images, labels, index [T, L, B]) -> (state, sums of T steps).

  Gradients, losses and, inside the norms, batch statistics are averaged over all devices, local
  and remote, so that n devices take the step that one would take. The state is donated.

  Args:
    feed_axis: the device axis of images and labels, None if every device holds all of them.
    devices: that share a batch; None: all.
    The others are those of `make_step`.

  Returns per step: {"loss": float32 [T], mean over the global batch; "error": float32 [T], its
  share of wrong decisions}.
  """
  one_step = make_step(apply, loss, optimiser, augment, seed, axis_name, accumulate)

  def train(state, images, labels, index):
    return jax.lax.scan(lambda s, ids: one_step(s, images[ids], labels[ids]), state, index)

  return jax.pmap(
    train,
    axis_name=AXIS,
    in_axes=(None, feed_axis, feed_axis, 1),
    out_axes=None,
    donate_argnums=0,
    devices=devices,
  )


def example_keys(
  seed: int | jax.Array, step: jax.Array, number: int, axis_name: str | None = AXIS
) -> jax.Array:
  """A key for each of this device's `number` examples; inside pmap, if a batch is spread over it.

  It depends on the seed, the step and the example's place in the global batch, and not on how
  many devices share the batch.
  """
  key = jax.random.fold_in(jax.random.key(seed), step)
  first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * number
  slot = first + jnp.arange(number)
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, slot)
