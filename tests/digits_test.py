"""The paper's first claim on the embedded default, whole: and a recipe that must not show it."""

import json
import sys

import pytest

from tests.main_test import call


@pytest.mark.parametrize(("variant", "collapses"), [("base", True), ("plain", False)])
def test_the_verdict_tells_a_recipe_that_collapses_from_one_that_does_not(
  tmp_path, variant, collapses
):
  workdir = tmp_path / variant
  # Epochs 0, 1 and the last are what the verdict is made of; observing does not change training.
  call(
    [
      sys.executable,
      "-m",
      "nc_jax.main",
      f"--config=configs/digits.py:{variant}",
      f"--workdir={workdir}",
      "--config.observe.epochs=1",
    ]
  )
  verdict = json.loads((workdir / "verdict.json").read_text())
  assert verdict["passed"] is collapses
  assert verdict["final"]["error(train)"] == 0  # both fit the train set
  assert 0.05 < verdict["final"]["error(test)"] < 0.2
  if not collapses:
    passed = {check["claim"].split(":")[0] for check in verdict["checks"] if check["passed"]}
    assert not any(claim.startswith(("V(train)", "V(test)")) for claim in passed)
