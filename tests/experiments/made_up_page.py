"""A report page of the size of a real one: five experiments, 25 claims, 12 figures."""

import numpy as np
from matplotlib.figure import Figure

from nc_jax.experiments import claims, report
from nc_jax.experiments.figure_files import save
from nc_jax.experiments.results import Cell, Run
from nc_jax.figure_style import BLUE, ORANGE

TITLES = {
  "e1": "E1. Train against test collapse along training",
  "e2": "E2. Test collapse against the size of the train set",
  "e3a": "E3a. Coarse to fine: more collapse, worse transfer",
  "e3b": "E3b. Novel classes: more collapse, worse transfer",
  "e4": "E4. Cascading collapse across layers",
}
CELLS = ("cross_entropy", "cifar10/resnet18/squared_error", "n=150, updates")
NEGATIVE = "no batch norm, weight decay 5e-4"


def made_up_claims(experiment: str, rng) -> list[claims.Claim]:
  """Five of cells that must hold and two of the negative cell, of which one is refuted."""
  made = []
  for i in range(5):
    seeds = 100 * rng.lognormal(0.5, 0.2, size=4)
    text = f"V(train) at epoch 1 over V(train) at the end, seen {i + 1} times: it fell & stayed low"
    made.append(
      claims.per_seed(f"{experiment.upper()}.{i + 1}", CELLS[i % 3], text, seeds, ">=", 100)
    )
  for i, low in enumerate((12.0, 1.2)):
    text = f"V(test) / V(train) at the end, with negative number {i + 1}"
    seeds = low + rng.random(4)
    made.append(claims.per_seed(f"{experiment.upper()}.2", NEGATIVE, text, seeds, ">=", 10))
  return made


def made_up_figure(rng, panels: int, points: int) -> Figure:
  figure = Figure(figsize=(3.2 * panels, 3))
  for axes in figure.subplots(1, panels, squeeze=False).flat:
    x = np.geomspace(1, 300, points)
    axes.plot(x, 2 / x * rng.lognormal(0, 0.1, points), color=BLUE, label="V(train)")
    axes.plot(x, 0.2 + 1 / x * rng.lognormal(0, 0.1, points), color=ORANGE, label="V(test)")
    axes.set(xscale="log", yscale="log", xlabel="epoch", ylabel=r"Tr $\Sigma_W$ / Tr $\Sigma_B$")
    axes.legend()
  return figure


def made_up_table(rng) -> claims.Table:
  rows = []
  for cell in (*CELLS, NEGATIVE):
    row = {"cell": cell, "n": 1500}
    for name in ("test accuracy", "V(train)", "V(test)", "V_weak(test)"):
      row |= claims.measured(name, rng.random(4))
    row |= claims.measured("ratio", 10 + 90 * rng.random(4))
    row |= {"ratio low": 12.3, "ratio high": 99.9}
    rows.append(row)
  return claims.Table.of(rows)


def made_up_page(folder, points: int = 40) -> report.Page:
  """Its figures are written into `folder`; the first has a hundred times the points."""
  rng = np.random.default_rng(0)
  sections = []
  for experiment, panels in zip(
    TITLES, ((1, 4), (2, 2), (1, 2, 1), (1, 1), (4, 2, 2)), strict=True
  ):
    figures = {
      f"{experiment}_{i}": made_up_figure(
        rng, count, points * (100 if not sections and not i else 1)
      )
      for i, count in enumerate(panels)
    }
    paths = [path for path in save(folder, figures) if path.suffix == ".svg"]
    made = made_up_claims(experiment, rng)
    sections.append(
      report.Section(
        id=experiment,
        title=TITLES[experiment],
        question="Does the test sample collapse when the train sample does?",
        claim="Neural collapse is a phenomenon of the train set; on the test set V flattens.",
        verdict=claims.verdict(made, [Cell(NEGATIVE, {}, negative=True)]),
        table=made_up_table(rng),
        figures=[
          report.Picture(path, f"V against epoch, <{path.stem}>", f"V falls: {path.stem}")
          for path in paths
        ],
        failed_runs=[Run(CELLS[1], 3, [], "loss nan at step 31")] if experiment == "e2" else [],
      )
    )
  return report.Page(
    title="Limitations of neural collapse: five experiments",
    lead="Is neural collapse something that happens on the train set alone, and does it harm?",
    command="python -m nc_jax.experiments e1 e2 e3a e3b e4 --scale standin --workdir runs/all",
    configs=[(f"e1 / {cell}", {"data": {"name": "digits"}, "note": "a < b & c"}) for cell in CELLS],
    versions={"python": "3.11.7", "jax": "0.10.0", "nc_jax": "0.1.0 at bcaab31"},
    hardware="2 CPU cores of one host",
    run_seconds=1234.5,
    created="2026-11-25 19:30 UTC",
    sections=sections,
  )
