"""The paper's first claim as four numbers: train features collapse, test features do not."""

import json
import math
import pathlib
from typing import NamedTuple

from nc_jax.files import replacing
from nc_jax.training.models import LOGITS, PENULTIMATE


class Check(NamedTuple):
  claim: str
  measured: float
  relation: str  # "<=" or ">="
  threshold: float

  @property
  def passed(self) -> bool:
    """False for nan, whichever way the relation points."""
    if self.relation == "<=":
      return self.measured <= self.threshold
    return self.measured >= self.threshold


class Verdict(NamedTuple):
  checks: list[Check]
  final: dict[str, float]  # what the checks are made of, and the errors at the end
  terminal_epoch: int | None  # first observed epoch with train error 0

  @property
  def passed(self) -> bool:
    return all(check.passed for check in self.checks)


def judge(rows: list[dict]) -> Verdict:
  """Judges the rows of a metrics.csv that holds the last epoch.

  V = Tr(Σ_W)/Tr(Σ_B) (`nc1/trace_ratio`) of the penultimate layer; V_weak(test) is the mean
  squared distance of a test feature to the *nearest* train class mean over the same Tr(Σ_B) of
  the train set. The fall is counted from the first observed epoch after training began.

  Hui, Belkin & Nakkiran 2022, arXiv 2202.08384; V_weak is ours.
  """
  V = curve(rows, "train", PENULTIMATE, "nc1/trace_ratio")
  epochs = sorted(V)
  first = next((epoch for epoch in epochs if epoch >= 1), epochs[-1])
  last = epochs[-1]
  at_end = lambda split, layer, key: curve(rows, split, layer, key).get(last, math.nan)
  test = at_end("test", PENULTIMATE, "nc1/trace_ratio")
  weak = at_end("test", PENULTIMATE, "weak/second_moment")
  checks = [
    Check("V(train) at the end: the train set collapses", V[last], "<=", 0.02),
    Check(f"V(train) at epoch {first} / at the end: it fell", _ratio(V[first], V[last]), ">=", 100),
    Check("V(test) / V(train): the test set does not collapse", _ratio(test, V[last]), ">=", 10),
    Check("V_weak(test) / V(train): not even weakly", _ratio(weak, V[last]), ">=", 5),
  ]
  final = {
    "epoch": last,
    "V(train)": V[last],
    "V(test)": test,
    "V_weak(test)": weak,
    "error(train)": at_end("train", LOGITS, "error/classifier"),
    "error(test)": at_end("test", LOGITS, "error/classifier"),
  }
  return Verdict(checks, final, terminal_epoch(rows))


def curve(rows: list[dict], split: str, layer: str, key: str) -> dict[int, float]:
  """{epoch: value} of one quantity."""
  wanted = (split, layer, key)
  return {r["epoch"]: r["value"] for r in rows if (r["split"], r["layer"], r["key"]) == wanted}


def terminal_epoch(rows: list[dict]) -> int | None:
  """The first observed epoch of the terminal phase: train error 0. None if there was none."""
  errors = curve(rows, "train", LOGITS, "error/classifier")
  return min((epoch for epoch, error in errors.items() if error == 0), default=None)


def to_text(verdict: Verdict) -> str:
  lines = ["Collapse on the train set, none on the test set (Hui, Belkin & Nakkiran 2022)", ""]
  for check in verdict.checks:
    word = "pass" if check.passed else "FAIL"
    lines.append(
      f"  {word}  {check.claim:<52} {check.measured:>10.4g}  ({check.relation} {check.threshold:g})"
    )
  final = verdict.final
  phase = "never" if verdict.terminal_epoch is None else f"epoch {verdict.terminal_epoch}"
  lines += [
    "",
    f"  epoch {final['epoch']}: V(train) {final['V(train)']:.4g}, V(test) {final['V(test)']:.4g}, "
    f"V_weak(test) {final['V_weak(test)']:.4g}",
    f"  error: train {final['error(train)']:.4f}, test {final['error(test)']:.4f}; "
    f"terminal phase (train error 0) since: {phase}",
  ]
  return "\n".join(lines) + "\n"


def write(verdict: Verdict, workdir: pathlib.Path):
  """Writes verdict.txt, then verdict.json, whose presence says that the run is finished."""
  with replacing(workdir / "verdict.txt") as file:
    file.write(to_text(verdict))
  record = {
    "passed": verdict.passed,
    "checks": [
      {
        "claim": check.claim,
        "measured": _number(check.measured),
        "relation": check.relation,
        "threshold": check.threshold,
        "passed": check.passed,
      }
      for check in verdict.checks
    ],
    "final": {name: _number(value) for name, value in verdict.final.items()},
    "terminal_epoch": verdict.terminal_epoch,
  }
  with replacing(workdir / "verdict.json") as file:
    json.dump(record, file, indent=2, allow_nan=False, ensure_ascii=False)
    file.write("\n")


def _ratio(a: float, b: float) -> float:
  if b == 0:
    return math.nan if a == 0 or math.isnan(a) else math.inf
  return a / b


def _number(value: float):
  """JSON has no nan and no inf: they are written as words."""
  return value if math.isfinite(value) else str(value)
