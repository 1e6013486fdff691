"""What a data set is: two splits of images and labels, and how a byte becomes a number."""

import dataclasses

import numpy as np

from nc_jax.training.data.streaming import StreamedImages

_SAMPLE = 1024  # images of a streamed set from which its mean and deviation are taken
_BLOCK = 4096  # images whose bytes are counted at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """Examples and all that is known of their labels.

  `labels` are given to training. `clean` are the true ones, the same array where none was
  corrupted. `fine` are the true labels before a coarse map merged classes, the same array as
  `clean` where none did. `ids` are places in the split as its source has it.
  """

  images: np.ndarray | StreamedImages  # uint8 (a mixture's: float32) [N, H, W, C]
  labels: np.ndarray  # int32 [N], in [0, K)
  clean: np.ndarray = None  # int32 [N]
  fine: np.ndarray = None  # int32 [N], in [0, K') with K' >= K
  ids: np.ndarray = None  # int64 [N]

  def __post_init__(self):
    fill = lambda name, value: getattr(self, name) is None and object.__setattr__(self, name, value)
    fill("clean", self.labels)
    fill("fine", self.clean)
    fill("ids", np.arange(len(self.labels)))

  def __len__(self) -> int:
    return len(self.labels)

  def take(self, places: np.ndarray) -> "Split":
    """The examples at these places, in this order."""
    streamed = isinstance(self.images, StreamedImages)
    images = self.images.take(places) if streamed else self.images[places]
    labels = self.labels[places]
    clean = labels if self.clean is self.labels else self.clean[places]
    fine = clean if self.fine is self.clean else self.fine[places]
    return Split(images, labels, clean, fine, self.ids[places])


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """Two splits and what a model needs to know of them.

  The network sees `image * scale + shift`, per channel. A source whose images have no scale of
  their own leaves both None, for `load` to take from the train set that is left to it.
  """

  train: Split
  test: Split
  class_names: tuple[str, ...]  # K
  scale: np.ndarray | None = None  # float32 [C]
  shift: np.ndarray | None = None  # float32 [C]
  fine_names: tuple[str, ...] = None  # K', of `Split.fine`
  held_out: "Dataset | None" = None  # the classes kept away from training

  def __post_init__(self):
    if self.fine_names is None:
      object.__setattr__(self, "fine_names", self.class_names)

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  @property
  def nbytes(self) -> int:
    return self.train.images.nbytes + self.test.images.nbytes

  @property
  def streamed(self) -> bool:
    return isinstance(self.train.images, StreamedImages)

  def fits(self, mebibytes: float) -> bool:
    """Whether both splits are in memory and together no larger than this."""
    return not self.streamed and self.nbytes <= mebibytes * 2**20

  def record(self) -> dict[str, np.ndarray]:
    """Which examples these are and what became of their labels, to be saved with a run.

    {"train_ids" [N], "train_labels", "train_clean", "train_fine", "test_ids", ...}; the corrupted
    ones are `train_ids[train_labels != train_clean]`.
    """
    splits = {"train": self.train, "test": self.test}
    fields = ("ids", "labels", "clean", "fine")
    return {f"{s}_{f}": getattr(split, f) for s, split in splits.items() for f in fields}


def normalisation(images) -> tuple[np.ndarray, np.ndarray]:
  """(scale, shift) [C], after which each channel has mean 0 and deviation 1.

  By sums over integers: exact, and no float copy of the set. Of a streamed set only 1,024 images,
  evenly spaced, are looked at. A constant channel is only centred.
  """
  if isinstance(images, StreamedImages):
    sample = np.linspace(0, len(images) - 1, min(len(images), _SAMPLE)).round().astype(np.int64)
    images = images[sample]
  counts = 0
  for begin in range(0, len(images), _BLOCK):
    channels = images[begin : begin + _BLOCK].reshape(-1, images.shape[-1]).T
    counts = counts + np.stack([np.bincount(channel, minlength=256) for channel in channels])
  levels, total = np.arange(256), counts[0].sum()  # counts: [C, 256]
  mean = counts @ levels / total
  deviation = np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(1) / total)
  deviation[deviation == 0] = 1
  return (1 / deviation).astype(np.float32), (-mean / deviation).astype(np.float32)
