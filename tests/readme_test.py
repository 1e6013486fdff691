"""What the README says is so."""

import re
import subprocess
import sys

import numpy as np

import nc_jax as nc
from tests.configs import ROOT

README = (ROOT / "README.md").read_text()
FIRST_SCREEN = "\n".join(README.splitlines()[:30])


def table(after: str) -> list[list[str]]:
  """The cells of the first table after a heading, without its two header lines."""
  text = README.split(after, 1)[1]
  block = re.search(r"(?:^\|.*\|\n)+", text, re.MULTILINE)[0]
  return [
    [cell.strip() for cell in line.strip("|\n").split(" | ")] for line in block.splitlines()[2:]
  ]


def test_the_two_commands_stand_on_the_first_screen():
  assert (
    "python -m pip install -e '.[train,plot]' && "
    "python -m nc_jax.main --config=configs/digits.py --workdir=runs/digits\n"
  ) in FIRST_SCREEN
  assert "python -m pip install -e '.[train,plot,test]' && python -m pytest\n" in FIRST_SCREEN


def test_the_table_of_metrics_is_the_library_s():
  rows = table("### Metrics")
  # Markdown needs | escaped inside a table.
  said = [(row[0].strip("`"), *(cell.replace("\\|", "|") for cell in row[1:])) for row in rows]
  assert said == [(key, m.formula, m.limit, m.source) for key, m in nc.METRICS.items()]


def test_the_snippet_runs():
  snippet = re.search(r"```python\n(.*?)```", README.split("## The metric library")[1], re.DOTALL)[
    1
  ]
  rng = np.random.default_rng(0)
  batches = [(rng.normal(size=(40, 512)), rng.integers(0, 10, 40)) for _ in range(3)]
  features, labels = batches[0]
  names = {
    "batches": batches,
    "moments_of_another_host": nc.ClassMoments.of(features, labels, 10),
    "weight": rng.normal(size=(10, 512)),
    "bias": np.zeros(10),
  }
  exec(compile(snippet, "README.md", "exec"), names)
  assert int(names["moments"].count.sum()) == 4 * 40
  values = nc.measure(names["moments"], head=nc.Head(names["weight"], names["bias"]))
  assert all(np.isfinite(value) for value in values.values())


def test_the_export_from_torch_makes_float32_of_features_and_head():
  """NumPy has no bfloat16."""
  recipe = re.search(r"```python\n(.*?)```", README.split("### From any")[1], re.DOTALL)[1]
  assert recipe.count(".float().cpu()") == 2


def test_every_file_and_folder_of_the_map_exists():
  tree = re.search(r"```\n(.*?)```", README.split("## Map")[1], re.DOTALL)[1]
  folders = {0: ROOT}
  for line in tree.splitlines():
    depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
    path = folders[depth] / name
    assert path.exists(), line
    folders[depth + 1] = path


def test_the_core_imports_neither_the_trainer_s_packages_nor_tensorflow():
  code = "import sys, nc_jax; print(*{name.split('.')[0] for name in sys.modules})"
  loaded = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
  ).stdout.split()
  unwanted = {"flax", "optax", "orbax", "clu", "tensorflow", "tensorflow_datasets", "matplotlib"}
  assert "jax" in loaded and not unwanted & set(loaded)


def test_nothing_imports_tensorflow():
  for path in ROOT.rglob("*.py"):
    if ".venv" not in path.parts:
      assert not re.search(r"^\s*(import|from) tensorflow(\s|\.|$)", path.read_text(), re.MULTILINE)
