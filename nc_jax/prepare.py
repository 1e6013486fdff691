"""Downloads a data set and prepares it for training, through TensorFlow Datasets.

usage: python -m nc_jax.prepare NAME [--data_dir=DIR]

  NAME              {names}
  --data_dir=DIR    where prepared data go, DIR/NAME/VERSION, and downloads, DIR/downloads; default:
                    $TFDS_DATA_DIR or ~/tensorflow_datasets. Train with --config.data.dir=DIR
  --help            this text

The preparation, and it alone, needs TensorFlow: pip install -e '.[prepare]'. What is prepared
already is left as it is.

Exit status: 0 done, 1 preparing failed, 2 the request was wrong.
"""

import argparse
import difflib
import importlib.util
import os
import pathlib
import shutil
import sys
import textwrap
import urllib.parse

from nc_jax.errors import RunError, UserError, exit_status
from nc_jax.parser import Parser
from nc_jax.training.data.prepared import TEST_SPLITS, data_dir, find

_PATIENCE = 5.0  # seconds that a host has to answer


def main(argv: list[str]) -> int:
  return exit_status(run, argv, "whole downloads are kept for the next time")


def run(argv: list[str]):
  arguments = parse(argv[1:])
  if arguments.help:
    names = textwrap.fill(", ".join(TEST_SPLITS), 80).replace("\n", "\n" + " " * 20)
    print(__doc__.strip().format(names=names))
    return
  name, root = arguments.name, data_dir(arguments.data_dir)
  if folder := find(name, root):
    print(f"{name} is prepared already, in {folder}; nothing was changed.")
    return
  for info in (root / name).glob("*/dataset_info.json"):
    raise UserError(
      f"{info.parent} holds {name} in another form than array_record: choose another --data_dir."
    )
  if not has_tensorflow():
    raise UserError(
      f"Preparing {name} needs TensorFlow, once: pip install -e '.[prepare]' (training does not)."
    )
  prepare(name, root)
  print(f"{name} is prepared, in {find(name, root)}. Train with --config.data.dir={root}")


def parse(argv: list[str]) -> argparse.Namespace:
  """The options; UserError for whatever is wrong with them."""
  parser = Parser(add_help=False, allow_abbrev=False)
  parser.add_argument("name", nargs="?")
  parser.add_argument("--data_dir")
  parser.add_argument("--help", "-h", action="store_true")
  arguments = parser.parse_args(argv)
  if arguments.name not in TEST_SPLITS and not arguments.help:
    if arguments.name is None:
      raise UserError("NAME of the data set to prepare is missing. See --help.")
    near = difflib.get_close_matches(arguments.name, TEST_SPLITS, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Choose one of {', '.join(TEST_SPLITS)}."
    raise UserError(f"There is no data set {arguments.name!r} to prepare. {hint}")
  return arguments


def has_tensorflow() -> bool:
  return importlib.util.find_spec("tensorflow") is not None


def prepare(name: str, root: pathlib.Path):
  """Lets TFDS do its work; whatever it leaves half done is removed.

  Raises UserError for files that have to be fetched by hand, RunError for everything else.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  import tensorflow_datasets as tfds

  builder = tfds.builder(name, data_dir=str(root), file_format="array_record")
  downloads = root / "downloads"
  by_hand = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
  if by_hand and not any((downloads / "manual").glob("*")):
    raise UserError(
      f"{name} has to be fetched by hand, into {downloads / 'manual'}: {' '.join(by_hand.split())}"
    )
  if not by_hand:
    check_network(name, builder.url_infos or {})
  before = set(_partial(name, root))
  for path in sorted(before):
    print(f"{path} was left by another preparation, stopped or running; it is not used.")
  try:
    builder.download_and_prepare(download_dir=str(downloads))
  except Exception as error:  # TFDS raises whatever its reader of the original files raised
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":")
    raise RunError(
      f"{name} could not be prepared: {reason} (whole downloads are kept in {downloads})"
    ) from error
  finally:
    for path in set(_partial(name, root)) - before:
      if path.is_dir():
        shutil.rmtree(path)
      else:
        path.unlink(missing_ok=True)  # it may have gone with its folder


def check_network(name: str, urls):
  """Raises RunError, soon, where no host answers: TFDS itself would try for minutes."""
  import requests

  hosts = {urllib.parse.urlsplit(url).netloc: url for url in urls}
  for url in hosts.values():
    try:
      requests.head(url, timeout=_PATIENCE)  # through the usual proxies; any answer will do
      return
    except requests.RequestException:
      continue
  if hosts:
    raise RunError(
      f"{name} could not be downloaded: no answer from {', '.join(hosts)} within {_PATIENCE:.0f} s."
    )


def _partial(name: str, root: pathlib.Path):
  """The files and folders that TFDS makes under these names and renames when they are whole."""
  yield from (root / name).glob("**/incomplete.*")
  yield from (root / "downloads").glob("**/*.tmp.*")
  yield from (root / "downloads").glob("**/incomplete.*")


if __name__ == "__main__":
  sys.exit(main(sys.argv))
