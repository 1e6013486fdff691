"""METRICS: the one table of names. Keys, formulas, limits, ranges, needs and sources."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Metric(NamedTuple):
  """One row of the table.

  C is the number of classes that have examples, D the width, m_k the class means about the
  global mean, v_k and Σ_W, Σ_B as in `variability`, u = m / ‖m‖.

  Attributes:
    formula: as in the code's docstrings.
    limit: its value at collapse, in words; "" where collapse says nothing.
    range: the values it can take.
    needs: of "moments", "scatter" (moments with the [D, D] scatter), "head" (weight, bias),
      "pass 2" (decisions), "test" (a test set).
    source: authors, year, arXiv id.
    at_collapse: the limit as a function of C; None where `limit` is "".
  """

  formula: str
  limit: str
  range: str
  needs: tuple[str, ...]
  source: str
  at_collapse: Callable[[int], float] | None = None


PAPYAN = "Papyan, Han and Donoho 2020, arXiv 2008.08186"
HUI = "Hui, Belkin and Nakkiran 2022, arXiv 2202.08384"
GALANTI = "Galanti, György and Hutter 2021, arXiv 2112.15121"
XU = "Xu and Liu 2023, arXiv 2306.03440"
ZHU = "Zhu et al. 2021, arXiv 2105.02375"
KOTHAPALLI = "Kothapalli 2023, arXiv 2206.04041"
LIU = "Liu, Yu, Weller and Schölkopf 2023, arXiv 2303.06484"
WU = "Wu and Papyan 2024, arXiv 2405.17767"
ZHAO = "Zhao et al. 2026, arXiv 2602.16642"
ROY = "Roy and Vetterli 2007, EUSIPCO"
MASARCZYK = "Masarczyk et al. 2023, arXiv 2305.19753"
ZHOU = "Zhou et al. 2022, arXiv 2203.01238"

MOMENTS, SCATTER, HEAD = ("moments",), ("moments", "scatter"), ("moments", "head")
PASS2, PASS2_HEAD, TEST = ("moments", "pass 2"), ("moments", "pass 2", "head"), ("moments", "test")


def _zero(formula, range_, needs, source):
  return Metric(formula, "0", range_, needs, source, lambda classes: 0.0)


def _one_less(formula, range_, needs, source):
  return Metric(formula, "C − 1", range_, needs, source, lambda classes: classes - 1.0)


def _free(formula, range_, needs, source=""):
  return Metric(formula, "", range_, needs, source)


METRICS: dict[str, Metric] = {
  "nc1/pinv": _zero("tr(Σ_W Σ_B⁺) / C", "[0, ∞)", SCATTER, PAPYAN),
  "nc1/trace_ratio": _zero("tr Σ_W / tr Σ_B", "[0, ∞]", MOMENTS, HUI),
  "nc1/cdnv": _zero("mean_{i≠j} (v_i + v_j) / (2 ‖μ_i − μ_j‖²)", "[0, ∞]", MOMENTS, GALANTI),
  "nc1/vci": _zero("1 − tr(Σ_T⁺ Σ_B) / rank Σ_B,  Σ_T = Σ_W + Σ_B", "[0, 1]", SCATTER, XU),
  "trace/within": _zero("tr Σ_W", "[0, ∞)", MOMENTS, ""),
  "trace/between": _free("tr Σ_B", "[0, ∞)", MOMENTS),
  "rank/between": _one_less("numerical rank of Σ_B", "[0, C − 1]", MOMENTS, ""),
  "classes/present": _free("C, classes with examples", "[0, K]", MOMENTS),
  "nc2/equinorm_means": _zero("std_k ‖m_k‖ / mean_k ‖m_k‖", "[0, √C]", MOMENTS, PAPYAN),
  "nc2/equinorm_weights": _zero("std_k ‖w_k‖ / mean_k ‖w_k‖", "[0, √C]", HEAD, PAPYAN),
  "nc2/equiangular_means": _zero(
    "mean_{i≠j} |cos(m_i, m_j) + 1/(C−1)|", "[0, C/(C−1)]", MOMENTS, PAPYAN
  ),
  "nc2/equiangular_weights": _zero(
    "mean_{i≠j} |cos(w_i, w_j) + 1/(C−1)|", "[0, C/(C−1)]", HEAD, PAPYAN
  ),
  "nc2/angle_std_means": _zero("std_{i≠j} cos(m_i, m_j)", "[0, 1]", MOMENTS, PAPYAN),
  "nc2/angle_std_weights": _zero("std_{i≠j} cos(w_i, w_j)", "[0, 1]", HEAD, PAPYAN),
  "nc2/etf_means": _zero(
    "‖MMᵀ/‖MMᵀ‖ − E‖,  E = (I − 11ᵀ/C)/√(C−1)", "[0, √2]", MOMENTS, KOTHAPALLI
  ),
  "nc2/etf_weights": _zero("‖WWᵀ/‖WWᵀ‖ − E‖", "[0, √2]", HEAD, ZHU),
  "nc2/log_energy": Metric(
    "mean_{i≠j} −log ‖u_i − u_j‖", "−½ log(2C/(C−1))", "[−log 2, ∞]", MOMENTS, LIU,
    lambda classes: -0.5 * np.log(2 * classes / (classes - 1)),
  ),
  "nc2/riesz_energy": Metric(
    "mean_{i≠j} sign(s) ‖u_i − u_j‖^(−s),  s = 1", "(2C/(C−1))^(−s/2)", "[2^(−s), ∞]", MOMENTS,
    LIU, lambda classes: (2 * classes / (classes - 1)) ** -0.5,
  ),
  "nc2/gnc2_var": _zero("var_{i≠j} −log ‖u_i − u_j‖", "[0, ∞)", MOMENTS, WU),
  "nc2/gnc2_cov": _zero(
    "std over |mean|, i≠j, of −log ‖u_i − u_j‖", "[0, ∞)", MOMENTS, WU
  ),
  "nc3/self_duality": _zero("‖W/‖W‖ − M/‖M‖‖²", "[0, 4]", HEAD, PAPYAN),
  "nc3/duality_etf": _zero("‖WMᵀ/‖WMᵀ‖ − E‖", "[0, 2]", HEAD, ZHU),
  "nc3/cosine": Metric(
    "mean_k cos(w_k, m_k)", "1", "[−1, 1]", HEAD, PAPYAN, lambda classes: 1.0
  ),
  "nc3/uniform_duality": _zero("std_k / |mean_k| of cos(w_k, m_k)", "[0, ∞)", HEAD, WU),
  "nc3/uniform_duality_var": _zero("var_k cos(w_k, m_k)", "[0, ∞)", HEAD, WU),
  "nc3/uniform_duality_dot_var": _zero("var_k w_k·m_k", "[0, ∞)", HEAD, WU),
  "nc3/bias_residual": _zero("‖W μ_G + b‖", "[0, ∞)", HEAD, ZHU),
  "nc0/weight_sum": _zero("‖Wᵀ1‖² / D", "[0, ∞)", HEAD, ZHAO),
  "nc4/ncc_mismatch": _zero(
    "share: argmax_k w_k·h + b_k ≠ argmin_k ‖h − μ_k‖", "[0, 1]", PASS2_HEAD, PAPYAN
  ),
  "nc4/ncc_error": _zero("share: argmin_k ‖h − μ_k‖ ≠ y", "[0, 1]", PASS2, PAPYAN),
  "error/classifier": _zero("share: argmax_k w_k·h + b_k ≠ y", "[0, 1]", PASS2_HEAD, PAPYAN),
  "rank/effective": _one_less("exp(−Σ p log p),  p = σ / Σσ", "[1, D]", SCATTER, ROY),
  "rank/stable": _one_less("Σσ² / σ_1²", "[1, D]", SCATTER, ""),
  "rank/numerical": _one_less("#{σ² > 1e-3 σ_1²}", "[1, D]", SCATTER, MASARCZYK),
  "rank/nuclear": _one_less("(Σσ)² / Σσ²", "[1, D]", SCATTER, ZHOU),
  "norm/features": _free("mean ‖h‖", "[0, ∞)", PASS2),
  "norm/means": _free("mean_k ‖m_k‖", "[0, ∞)", MOMENTS),
  "norm/weights": _free("mean_k ‖w_k‖", "[0, ∞)", HEAD),
  "norm/global_mean": _free("‖μ_G‖", "[0, ∞)", MOMENTS),
}

_SIDES = {
  "train": "of the train set",
  "strong": "of the test set, its labels and its own means",
  "weak": "of the test set, nearest train mean for a label",
}
METRICS |= {
  f"{side}/{key}": METRICS[key]._replace(
    formula=f"{METRICS[key].formula}, {of}", needs=(*METRICS[key].needs, "test")
  )
  for side, of in _SIDES.items()
  for key in ("nc1/pinv", "nc1/trace_ratio", "nc1/cdnv", "nc1/vci")
}
METRICS |= {
  "train/second_moment": _zero("mean ‖h − μ_y‖² / tr Σ_B, train set", "[0, ∞]", TEST, HUI),
  "strong/second_moment": _zero(
    "mean ‖h − μ_y‖² / tr Σ_B, test features, train means", "[0, ∞]", TEST, HUI
  ),
  "weak/second_moment": _zero(
    "mean min_k ‖h − μ_k‖² / tr Σ_B, test features, train means", "[0, ∞]", TEST, HUI
  ),
  "shift/means": _zero(
    "Σ_k (n_k/N) ‖μ_k test − μ_k train‖² / tr Σ_B train", "[0, ∞]", TEST, HUI
  ),
  "test/ncc_error": _zero("nc4/ncc_error of test features, train means", "[0, 1]", TEST, PAPYAN),
  "test/ncc_mismatch": _zero(
    "nc4/ncc_mismatch of test features, train means", "[0, 1]", (*TEST, "head"), PAPYAN
  ),
  "test/classifier_error": _zero(
    "error/classifier of test features", "[0, 1]", (*TEST, "head"), PAPYAN
  ),
}
