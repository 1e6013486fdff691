"""What an experiment reports, again from each replicate and from each seed: bounds and ranges."""

from collections.abc import Callable

import numpy as np

from nc_jax.experiments.claims import ENDS, Claim, Table
from nc_jax.experiments.results import Results


def of_claims(claims: Callable[[Results], list[Claim]], results: Results) -> list[Claim]:
  """The claims with bounds; those on means over seeds with what each seed gives by itself."""
  found = claims(results)
  measured = lambda of: [claim.measured for claim in claims(of)]
  low, high = results.bounds(measured)
  seeds = sorted({seed for cell in results.cells for seed in results.seeds(cell.name)})
  alone = [measured(results.alone(seed)) for seed in seeds]
  return [
    claim._replace(
      low=float(low[i]),
      high=float(high[i]),
      seeds=claim.seeds or [float(of_seed[i]) for of_seed in alone],
    )
    for i, claim in enumerate(found)
  ]


def of_table(table: Callable[[Results], Table], results: Results) -> Table:
  """The table, with columns NAME low and NAME high beside each column NAME that was measured."""
  found = table(results)
  names = [name for name in found.columns if _is_measured(found, name)]
  places = [found.columns.index(name) for name in names]
  low, high = results.bounds(lambda of: [[row[i] for i in places] for row in table(of).rows])
  rows = []
  for values, *ends in zip(found.rows, low, high, strict=True):
    bounds = dict(zip(names, zip(*map(np.ndarray.tolist, ends), strict=True), strict=True))
    row = {}
    for name, value in zip(found.columns, values, strict=True):
      row[name] = value
      if name in bounds:
        row[f"{name} low"], row[f"{name} high"] = bounds[name]
    rows.append(row)
  return Table.of(rows)


def _is_measured(table: Table, name: str) -> bool:
  base, _, end = name.rpartition(" ")
  if end in ENDS and base in table.columns:
    return False
  place = table.columns.index(name)
  return not any(isinstance(row[place], str | int) for row in table.rows)
