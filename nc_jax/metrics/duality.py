"""NC3: class means against classifier rows."""

import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from nc_jax.metrics import pairwise
from nc_jax.metrics.centring import Centred, logits_at_centre
from nc_jax.metrics.columns import Columns
from nc_jax.metrics.geometry import etf_error, mean_and_variance, variation
from nc_jax.metrics.moments import Head


def self_duality(centred: Centred, head: Head) -> Array:
  """Squared distance of normalised rows and means, ‖W/‖W‖_F − M/‖M‖_F‖_F²; 0 at collapse.

  At most 4. W is not centred and rows of empty classes are left out. The original code squares
  the norm, the printed formula does not. Evaluated as the difference: 2 − 2 cos cancels near 0.

  Returns: float []. nan if C < 2, or W or M is zero.

  References: Papyan, Han and Donoho 2020, arXiv 2008.08186.
  """
  rows = jnp.where(centred.present[:, None], head.weight, 0)
  rows = rows / jnp.sqrt(jnp.sum(rows**2))
  means = centred.means / jnp.sqrt(jnp.sum(centred.means**2))
  return jnp.where(centred.classes >= 2, jnp.sum((rows - means) ** 2), jnp.nan)


def cosines(centred: Centred, head: Head) -> Array:
  """[K] cos(w_k, m_k); 0 where one of them is zero."""
  return jnp.sum(pairwise.unit_rows(head.weight)[0] * pairwise.unit_rows(centred.means)[0], axis=1)


def cosine(centred: Centred, head: Head) -> Array:
  """Mean over classes of cos(w_k, m_k); 1 at collapse, at least −1.

  Returns: float []. nan if C < 2.
  """
  return mean_and_variance(cosines(centred, head), centred.present, 0)[0]


def uniform_duality(centred: Centred, head: Head, *, norm_ddof: int = 1) -> Array:
  """Uniformity of the duality, std_k / |mean_k| of cos(w_k, m_k); 0 at collapse.

  It asks for equal cosines, not for cosines of 1. std divides by C − norm_ddof.

  Returns: float []. nan if C < 2.

  References: Wu and Papyan 2024, arXiv 2405.17767 (UNC3).
  """
  return variation(cosines(centred, head), centred.present, norm_ddof)


def uniform_duality_var(centred: Centred, head: Head, *, norm_ddof: int = 1) -> Array:
  """Variance over classes of cos(w_k, m_k); 0 at collapse.

  Returns: float []. nan if C < 2.

  References: Wu and Papyan 2024, arXiv 2405.17767 (their code stores it).
  """
  return mean_and_variance(cosines(centred, head), centred.present, norm_ddof)[1]


def uniform_duality_dot_var(centred: Centred, head: Head, *, norm_ddof: int = 1) -> Array:
  """Variance over classes of w_k · m_k; 0 at collapse. Scales with W and M.

  Returns: float []. nan if C < 2.

  References: Wu and Papyan 2024, arXiv 2405.17767 (their code stores it).
  """
  dots = jnp.sum(head.weight * centred.means, axis=1)
  return mean_and_variance(dots, centred.present, norm_ddof)[1]


def bias_residual(centred: Centred, head: Head) -> Array:
  """What the bias leaves of the global mean's logits, ‖W μ_G + b‖₂.

  0 at collapse for a bias that absorbs the mean, up to a common constant. A head without bias
  has b = 0. Rows of empty classes are left out. Depends on where the features lie.

  References: Zhu et al. 2021, arXiv 2105.02375.
  """
  logits = logits_at_centre(centred, head)
  return jnp.sqrt(jnp.sum(jnp.where(centred.present, logits, 0) ** 2))


def weight_sum(head: Head, present: Array) -> Array:
  """Length of the sum of the classifier rows, ‖Wᵀ1‖₂² / D; 0 at collapse.

  Necessary, not sufficient, for NC2 and NC3 together. Rows of empty classes are left out.

  References: Zhao et al. 2026, arXiv 2602.16642, eq. 12.
  """
  return jnp.mean(jnp.sum(jnp.where(present[:, None], head.weight, 0), axis=0) ** 2)


def measure(
  centred: Centred, head: Head, norm_ddof: int = 1, mesh: Mesh | Columns | None = None
) -> dict[str, Array]:
  """NC3 and NC0 by key."""
  ddof = {"norm_ddof": norm_ddof}
  return {
    "nc3/self_duality": self_duality(centred, head),
    "nc3/duality_etf": etf_error(head.weight, centred.means, centred.present, mesh=mesh),
    "nc3/cosine": cosine(centred, head),
    "nc3/uniform_duality": uniform_duality(centred, head, **ddof),
    "nc3/uniform_duality_var": uniform_duality_var(centred, head, **ddof),
    "nc3/uniform_duality_dot_var": uniform_duality_dot_var(centred, head, **ddof),
    "nc3/bias_residual": bias_residual(centred, head),
    "nc0/weight_sum": weight_sum(head, centred.present),
  }
