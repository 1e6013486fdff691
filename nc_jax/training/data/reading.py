"""How images come from disk into arrays; none of it changes what an example is."""

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import math
import pathlib
import re
from collections.abc import Callable, Sequence

import numpy as np

from nc_jax import npz
from nc_jax.errors import UserError
from nc_jax.files import replacing

_LONGEST_NAME = 50  # letters in a cache's file name; a file system allows 255 bytes

_log = logging.getLogger("nc_jax")


def _silent(done: int, total: int):
  """Tells nobody."""


@dataclasses.dataclass(frozen=True)
class Reading:
  """Settings of the machine rather than of the data.

  cache_dir: where decoded images are kept for the next run; None: nowhere.
  memory_budget_mib: a set that takes more in memory is streamed.
  read_threads: threads that read a streamed set.
  progress: called with (done, total) examples as a split is decoded.
  """

  cache_dir: str | None = None
  memory_budget_mib: float = 4096.0
  read_threads: int = 16
  progress: Callable[[int, int], None] = _silent

  def holds(self, examples: int, shape: tuple[int, ...]) -> bool:
    """Whether so many images of this shape fit the memory budget."""
    return examples * math.prod(shape) <= self.memory_budget_mib * 2**20


class Unreadable(ValueError):
  """An example, or a file of examples, that cannot be read; says which, and why."""


@contextlib.contextmanager
def named(example: str):
  """Whatever the reader of a file format raises becomes one line that names the example."""
  try:
    yield
  except Exception as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise Unreadable(f"{example}: {reason}") from error


def expanded(path: str) -> pathlib.Path:
  """A path as a config says it, perhaps with ~ for the home folder."""
  if "\0" in path:
    raise UserError(f"{path!r} is no path: it holds a null byte.")
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError as error:
    raise UserError(f"{path!r}: {error}") from error


def cached(
  directory: str | None,
  name: str,
  files: Sequence[pathlib.Path],
  names: Sequence[str],
  make: Callable[[], dict],
) -> dict[str, np.ndarray]:
  """The arrays `names` of `make()`, kept in `directory` and read from there as long as it holds.

  A cache belongs to a name and to the names, sizes and times of change of the source files. It
  takes its place whole or not at all; one that cannot be read is named and made again.
  """
  if directory is None:
    return make()
  stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
  key = hashlib.sha256(json.dumps([name, stats]).encode()).hexdigest()[:16]
  folder = expanded(directory)
  path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '-', name)[-_LONGEST_NAME:]}-{key}.npz"
  try:
    if path.exists():
      return npz.load(path, names)
  except (UserError, OSError) as error:
    _log.warning("The cache %s is damaged and is made again: %s", path, error)
  arrays = make()
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path, "wb") as file:
      np.savez(file, **arrays)
  except OSError as error:
    raise UserError(
      f"config.data.cache_dir = {directory!r} cannot be written: {error.strerror}."
    ) from error
  return arrays


def decode(encoded: bytes | pathlib.Path, channels: int) -> np.ndarray:
  """An image file as uint8 [H, W, C], grey or RGB."""
  from PIL import Image

  with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
    return with_channels(np.asarray(image.convert("L" if channels == 1 else "RGB")), channels)


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
  """[H, W] as [H, W, 1], and as [H, W, 3] where others have colour: grey in each channel."""
  image = image if image.ndim == 3 else image[..., None]
  return np.repeat(image, 3, -1) if image.shape[-1] == 1 and channels == 3 else image


def check_image(image: np.ndarray, shape: tuple[int, ...]):
  """Raises ValueError unless the image has bytes and this shape: others would be broadcast."""
  if image.dtype != np.uint8 or image.shape != tuple(shape):
    raise ValueError(
      f"its image is {image.dtype} {list(image.shape)} where uint8 {list(shape)} was expected"
    )


def fit(image: np.ndarray, size: int) -> np.ndarray:
  """The middle square of an image [H, W, C], size x size, its shorter side resized to `size`."""
  from PIL import Image

  height, width = image.shape[:2]
  scale = size / min(height, width)
  if scale != 1:
    # Pillow's bilinear filter widens with the reduction, so that nothing aliases.
    goal = (max(size, round(width * scale)), max(size, round(height * scale)))
    grey = image.shape[-1] == 1
    resized = Image.fromarray(image[..., 0] if grey else image).resize(goal, Image.BILINEAR)
    image = with_channels(np.asarray(resized), image.shape[-1])
  top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
  return image[top : top + size, left : left + size]
