"""Images that do not fit memory: read, by Grain's threads, when they are asked for."""

from collections.abc import Callable

import numpy as np

from nc_jax.errors import RunError


class StreamedImages:
  """Images on disk that are indexed as an array of them would be.

  Which examples a step needs is known beforehand, a function of (seed, epoch, step): the order,
  the share of a process and the place after a restart are those of the index arrays, and nothing
  is read but what they name. Grain reads ahead within one indexing; its order is that of the
  ids, whatever the number of threads.

  Args:
    read: the image [H, W, C] uint8 of one id; called from several threads.
    ids: int64 [N], what `read` calls the examples.
    shape: (H, W, C).
    threads: how many read at a time; 0 reads in the calling thread.
  """

  dtype = np.dtype(np.uint8)

  def __init__(
    self, read: Callable[[int], np.ndarray], ids: np.ndarray, shape: tuple[int, ...], threads: int
  ):
    self._read = read
    self._ids = ids
    self._threads = threads
    self.shape = (len(ids), *shape)

  def __len__(self) -> int:
    return len(self._ids)

  @property
  def nbytes(self) -> int:
    """What they would take in memory."""
    return int(np.prod(self.shape, dtype=np.int64))

  def take(self, places: np.ndarray) -> "StreamedImages":
    return StreamedImages(self._read, self._ids[places], self.shape[1:], self._threads)

  def __getitem__(self, places: np.ndarray) -> np.ndarray:
    """The images at an integer array of places: uint8 [*places.shape, H, W, C].

    Raises RunError for an image that cannot be read.
    """
    import grain  # two seconds that sets in memory need not pay
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain asks absl's flags, which this program does not use
      flags.FLAGS.mark_as_parsed()
    ids = self._ids[places]
    images = np.empty((ids.size, *self.shape[1:]), np.uint8)
    options = grain.ReadOptions(self._threads, prefetch_buffer_size=4 * self._threads)
    order = grain.MapDataset.source(ids.ravel()).map(self._read_or_name)
    try:
      for place, image in enumerate(order.to_iter_dataset(options)):
        images[place] = image
    except RunError as error:  # whose message Grain lengthens
      raise RunError(str(error).splitlines()[0]) from error
    return images.reshape(*ids.shape, *self.shape[1:])

  def _read_or_name(self, id_: np.int64) -> np.ndarray:
    try:
      image = self._read(int(id_))
      if image.shape != self.shape[1:]:  # another one would be broadcast
        raise ValueError(f"it is {list(image.shape)} where {list(self.shape[1:])} was expected")
      return image
    except Exception as error:  # whatever the reader of a file format raises
      reason = (str(error).strip() or type(error).__name__).splitlines()[0]
      raise RunError(f"Image {id_} could not be read: {reason}") from error
