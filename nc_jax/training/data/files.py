"""Sources of the user's own: a folder of images, or arrays in an .npz file."""

import pathlib

import numpy as np

from nc_jax import npz
from nc_jax.errors import UserError
from nc_jax.training.data.reading import Reading, cached, check_image, decode, expanded, fit, named
from nc_jax.training.data.sets import Dataset, Split
from nc_jax.training.data.streaming import StreamedImages

_ENDINGS = (".png", ".jpg", ".jpeg")


def folder(*, reading: Reading, dir: str | None = None, image_size: int | None = None) -> Dataset:
  """Images in `dir`/train/CLASS/*.png|jpg|jpeg and `dir`/test/CLASS/..., read by Pillow.

  `test` may also be called `val` or `validation`. Classes and files are in sorted order. Images
  are grey if all are, else RGB. With `image_size` each is resized and cropped to a square;
  without, all must have one size.
  """
  if dir is None:
    raise UserError("config.data.dir = None, but the source 'folder' needs the folder to read.")
  root = expanded(dir)
  test = next((n for n in ("test", "val", "validation") if (root / n).is_dir()), "test")
  for split in ("train", test):
    if not (root / split).is_dir():
      raise UserError(f"config.data.dir = {dir!r}: there is no folder {root / split}.")
  names = sorted(path.name for path in (root / "train").iterdir() if path.is_dir())
  extra = sorted({path.name for path in (root / test).iterdir() if path.is_dir()} - set(names))
  if extra:
    raise UserError(f"config.data.dir = {dir!r}: class {extra[0]!r} of {test} is not in train.")
  listed = [_list(root / split, names) for split in ("train", test)]
  size, grey = _headers([file for files, _ in listed for file in files], image_size)
  shape = (*size, 1 if grey else 3)
  stream = not reading.holds(sum(len(labels) for _, labels in listed), shape)

  def read(file):
    with named(str(file)):
      image = decode(file, shape[-1])
      image = image if image_size is None else fit(image, image_size)
      check_image(image, shape)
      return image

  def images_of(split, files):
    if stream:
      ids = np.arange(len(files))
      return StreamedImages(lambda id_: read(files[id_]), ids, shape, reading.read_threads)

    def decode_all():
      images = np.empty((len(files), *shape), np.uint8)
      for place, file in enumerate(files):
        images[place] = read(file)
        reading.progress(place + 1, len(files))
      return {"images": images}

    name = f"{root} {split} {shape}"
    return cached(reading.cache_dir, name, files, ["images"], decode_all)["images"]

  splits = (
    Split(images_of(split, files), labels)
    for split, (files, labels) in zip(("train", test), listed, strict=True)
  )
  return Dataset(*splits, tuple(names))


def _list(folder: pathlib.Path, names: list[str]) -> tuple[list[pathlib.Path], np.ndarray]:
  files, labels = [], []
  for label, name in enumerate(names):
    found = (folder / name).iterdir() if (folder / name).is_dir() else ()
    found = sorted(path for path in found if path.suffix.lower() in _ENDINGS)
    files += found
    labels += [label] * len(found)
  if not files:
    raise UserError(f"config.data.dir: {folder} holds no CLASS/*.png, *.jpg or *.jpeg.")
  return files, np.array(labels, np.int32)


def _headers(files: list[pathlib.Path], image_size: int | None) -> tuple[tuple[int, int], bool]:
  """((H, W) of all images, whether all are grey), from their headers alone."""
  from PIL import Image

  first, grey = None, True
  for file in files:
    with named(str(file)), Image.open(file) as image:
      width, height = image.size
      grey = grey and image.mode in ("1", "L", "I", "I;16")
    first = first or (height, width)
    if image_size is None and (height, width) != first:
      raise UserError(
        f"config.data.image_size = None, but {file} is {height} x {width} and {files[0]} "
        f"{first[0]} x {first[1]}: give the size to bring them to."
      )
  return first if image_size is None else (image_size, image_size), grey


def arrays(*, dir: str | None = None) -> Dataset:
  """Arrays of an .npz file at `dir`: train_images, train_labels, test_images and test_labels.

  Images are uint8 [N, H, W, C] or [N, H, W], labels integers in [0, K). Never unpickled.
  """
  where = f"config.data.dir = {dir!r}"
  if dir is None:
    raise UserError(f"{where}, but the source 'arrays' needs the .npz file to read.")
  wanted = [f"{split}_{what}" for split in ("train", "test") for what in ("images", "labels")]
  try:
    found = npz.load(expanded(dir), wanted)
  except UserError as error:
    raise UserError(f"config.data.dir: {error}") from error
  splits = []
  for split in ("train", "test"):
    images, labels = found[f"{split}_images"], found[f"{split}_labels"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
      raise UserError(
        f"{where}: {split}_images must be uint8 [N, H, W, C] or [N, H, W]; "
        f"got {images.dtype} {list(images.shape)}."
      )
    images = images[..., None] if images.ndim == 3 else images
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
      raise UserError(
        f"{where}: {split}_labels must be {len(images)} integers; "
        f"got {labels.dtype} {list(labels.shape)}."
      )
    # More classes than train examples leave one of them without any.
    wrong = (labels < 0) | (labels >= len(found["train_images"]))
    if wrong.any():
      row = int(np.argmax(wrong))
      raise UserError(
        f"{where}: {split}_labels must lie in [0, K), with K <= {len(found['train_images'])} "
        f"train examples; got {labels[row]} in row {row}."
      )
    splits.append(Split(images, labels.astype(np.int32)))
  shapes = [split.images.shape[1:] for split in splits]
  if shapes[0] != shapes[1]:
    raise UserError(f"{where}: images of train are {shapes[0]} and of test {shapes[1]}.")
  classes = 1 + max(int(split.labels.max()) for split in splits)
  return Dataset(*splits, tuple(map(str, range(classes))))
