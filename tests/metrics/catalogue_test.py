"""The table of names says what the functions do."""

import numpy as np

import nc_jax as nc


def test_every_row_is_complete():
  known = {"moments", "scatter", "head", "pass 2", "test"}
  for key, row in nc.METRICS.items():
    assert key.count("/") in (1, 2) and row.formula and row.range[0] == "[", key
    assert row.needs[0] == "moments" and set(row.needs) <= known, key
    assert (row.at_collapse is None) == (row.limit == ""), key
    if key.startswith(("nc", "strong", "weak")):
      assert row.source, key


def test_limits_in_words_and_as_functions_agree():
  for key, row in nc.METRICS.items():
    if row.limit in ("0", "1"):
      assert row.at_collapse(10) == float(row.limit), key
    if row.limit == "C − 1":
      assert row.at_collapse(10) == 9, key
  distance = np.sqrt(2 * 10 / 9)  # between vertices of the simplex of 10
  np.testing.assert_allclose(nc.METRICS["nc2/log_energy"].at_collapse(10), -np.log(distance))
  np.testing.assert_allclose(nc.METRICS["nc2/riesz_energy"].at_collapse(10), 1 / distance)
