"""Random crops and flips of images, on the device, off by default."""

import jax
import jax.numpy as jnp

_PAD = 4  # pixels on each side


def augment(images: jax.Array, keys: jax.Array, padding: str = "reflect") -> jax.Array:
  """Crops each image at random out of itself padded by 4, then mirrors it with chance 1/2.

  Args:
    images: [B, H, W, C] of any dtype, at least 5 x 5 where `padding` is "reflect".
    keys: [B], one each.
    padding: "reflect", or "zero", which is a byte 0 and not the mean.

  Returns: as `images`. One gather: rows and columns are chosen by index.

  References: He et al. 2016, arXiv:1512.03385, section 4.2 (zero padding).
  """
  count, height, width, _ = images.shape
  mode = {"reflect": "reflect", "zero": "constant"}[padding]
  padded = jnp.pad(images, ((0, 0), (_PAD, _PAD), (_PAD, _PAD), (0, 0)), mode=mode)
  draw = jax.vmap(lambda key: jax.random.randint(key, (3,), 0, jnp.array([*[2 * _PAD + 1] * 2, 2])))
  top, left, flip = draw(keys).T  # [3, B]
  rows = top[:, None] + jnp.arange(height)
  across = jnp.arange(width)
  columns = left[:, None] + jnp.where(flip[:, None], across[::-1], across)
  return padded[jnp.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
