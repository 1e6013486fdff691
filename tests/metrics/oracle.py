"""Every metric once more: float64 NumPy, two passes, the formulas of the catalogue as written.

No line of it is shared with the library. Functions take raw features [N, D] and labels [N].
"""

import numpy as np


def class_moments(features, labels, num_classes):
  """Counts, means, spreads, and the scatter of every class [K, D, D]; classes in a loop."""
  features = np.asarray(features, np.float64)
  dim = features.shape[1]
  count = np.bincount(labels, minlength=num_classes)
  mean, spread = np.zeros((num_classes, dim)), np.zeros(num_classes)
  scatter = np.zeros((num_classes, dim, dim))
  for k in np.flatnonzero(count):
    rows = features[labels == k]
    mean[k] = rows.mean(0)
    spread[k] = ((rows - mean[k]) ** 2).sum()
    scatter[k] = (rows - mean[k]).T @ (rows - mean[k])
  return count, mean, spread, scatter


def measure(
  features,
  labels,
  num_classes,
  weight=None,
  bias=None,
  *,
  global_mean="classes",
  within="samples",
  between="classes",
  norm_ddof=1,
  pair_ddof=0,
  riesz_s=1.0,
):
  """{key: float} of sections 2.1 to 2.5."""
  features = np.asarray(features, np.float64)
  count, mean, spread, scatter = class_moments(features, labels, num_classes)
  present = np.flatnonzero(count)
  n, mu, s, scatter = count[present], mean[present], spread[present], scatter[present]
  C, N = len(n), n.sum()
  center = mu.mean(0) if global_mean == "classes" else features.mean(0)
  M = mu - center

  if within == "samples":
    sigma_w, trace_w = scatter.sum(0) / N, s.sum() / N
  else:
    sigma_w, trace_w = np.einsum("k,kij->ij", 1 / n, scatter) / C, np.mean(s / n)
  p = np.full(C, 1 / C) if between == "classes" else n / N
  sigma_b = (M * p[:, None]).T @ M
  rank = np.linalg.matrix_rank(np.sqrt(p)[:, None] * M, tol=1e-9 * np.linalg.norm(M, 2))
  v = s / n
  cdnv = [
    (v[i] + v[j]) / (2 * ((mu[i] - mu[j]) ** 2).sum()) for i in range(C) for j in range(C) if i != j
  ]
  out = {
    "nc1/pinv": np.trace(sigma_w @ np.linalg.pinv(sigma_b, rcond=1e-12, hermitian=True)) / C,
    "nc1/trace_ratio": trace_w / np.trace(sigma_b),
    "nc1/cdnv": np.mean(cdnv),
    "nc1/vci": 1 - _explained(sigma_w, np.sqrt(p)[:, None] * M) / rank,
    "trace/within": trace_w,
    "trace/between": np.trace(sigma_b),
    "rank/between": rank,
    "classes/present": C,
    "norm/features": np.mean(np.linalg.norm(features, axis=1)),
    "norm/global_mean": np.linalg.norm(center),
  }

  out |= _nc2("means", M, norm_ddof, pair_ddof)
  u = M / np.linalg.norm(M, axis=1)[:, None]
  distance = _off_diagonal(np.linalg.norm(u[:, None] - u, axis=2))
  log = -np.log(distance)
  out["nc2/log_energy"] = log.mean()
  out["nc2/riesz_energy"] = (np.sign(riesz_s) * distance**-riesz_s if riesz_s else log).mean()
  out["nc2/gnc2_var"] = log.var(ddof=pair_ddof)
  out["nc2/gnc2_cov"] = log.std(ddof=pair_ddof) / abs(log.mean())

  nearest = nearest_class(features, mean, count)
  out["nc4/ncc_error"] = np.mean(nearest != labels)
  if weight is not None:
    weight = np.asarray(weight, np.float64)
    bias = np.zeros(num_classes) if bias is None else np.asarray(bias, np.float64)
    W, b = weight[present], bias[present]
    out |= _nc2("weights", W, norm_ddof, pair_ddof)
    cosines = (W * M).sum(1) / np.linalg.norm(W, axis=1) / np.linalg.norm(M, axis=1)
    difference = W / np.linalg.norm(W) - M / np.linalg.norm(M)
    out["nc3/self_duality"] = (difference**2).sum()
    out["nc3/duality_etf"] = _etf(W @ M.T)
    out["nc3/cosine"] = cosines.mean()
    out["nc3/uniform_duality"] = cosines.std(ddof=norm_ddof) / abs(cosines.mean())
    out["nc3/uniform_duality_var"] = cosines.var(ddof=norm_ddof)
    out["nc3/uniform_duality_dot_var"] = (W * M).sum(1).var(ddof=norm_ddof)
    out["nc3/bias_residual"] = np.linalg.norm(W @ center + b)
    out["nc0/weight_sum"] = (W.sum(0) ** 2).sum() / W.shape[1]
    choice = (features @ weight.T + bias).argmax(1)
    out["nc4/ncc_mismatch"] = np.mean(choice != nearest)
    out["error/classifier"] = np.mean(choice != labels)

  sigma = np.linalg.svd(features - features.mean(0), compute_uv=False)
  share = sigma[sigma > 0] / sigma.sum()
  out["rank/effective"] = np.exp(-(share * np.log(share)).sum())
  out["rank/stable"] = (sigma**2).sum() / sigma[0] ** 2
  out["rank/numerical"] = (sigma**2 > 1e-3 * sigma[0] ** 2).sum()
  out["rank/nuclear"] = sigma.sum() ** 2 / (sigma**2).sum()
  return {key: float(value) for key, value in out.items()}


def nearest_class(features, mean, count):
  """argmin over present classes of the distance, one class at a time."""
  distance = np.full((len(features), len(mean)), np.inf)
  for k in np.flatnonzero(count):
    distance[:, k] = ((features - mean[k]) ** 2).sum(1)
  return distance.argmin(1)


def test_collapse(train, test, num_classes, weight=None, bias=None):
  """{key: float} of section 2.6; train and test are (features, labels)."""
  H, y = np.asarray(test[0], np.float64), test[1]
  count, mean, _, _ = class_moments(*train, num_classes)
  nearest = nearest_class(H, mean, count)
  M = mean[count > 0] - mean[count > 0].mean(0)
  B = (M**2).sum() / len(M)
  placed = count[y] > 0
  own = ((H - mean[y]) ** 2).sum(1)[placed]
  best = ((H - mean[nearest]) ** 2).sum(1)[placed]
  test_count, test_mean, _, _ = class_moments(H[placed], y[placed], num_classes)
  moved = (test_count * ((test_mean - mean) ** 2).sum(1))[test_count > 0].sum()
  sides = {"train": train, "strong": (H, y), "weak": (H, nearest)}
  out = {
    f"{side}/{key}": value
    for side, data in sides.items()
    for key, value in measure(*data, num_classes).items()
    if key.startswith("nc1/")
  }
  out["train/second_moment"] = out["train/nc1/trace_ratio"]
  out["strong/second_moment"] = own.mean() / B
  out["weak/second_moment"] = best.mean() / B
  out["shift/means"] = moved / placed.sum() / B
  out["test/ncc_error"] = np.mean(nearest != y)
  if weight is not None:
    choice = (H @ np.asarray(weight, np.float64).T + (0 if bias is None else bias)).argmax(1)
    out["test/ncc_mismatch"] = np.mean(choice != nearest)
    out["test/classifier_error"] = np.mean(choice != y)
  return {key: float(value) for key, value in out.items()}


def _explained(sigma_w, rows):
  """tr(Σ_T⁺ Σ_B): squared length of the rows of Σ_B's factor in the basis of both factors.

  Singular values of factors, because eigenvalues of Σ_T are only good to 1e-16 of Σ_B.
  """
  values, vectors = np.linalg.eigh(sigma_w)
  values = np.where(values > 1e-13 * values.max(), values, 0)
  left, sigma, _ = np.linalg.svd(
    np.vstack([np.sqrt(values)[:, None] * vectors.T, rows]), full_matrices=False
  )
  return (left[-len(rows) :, sigma > 1e-13 * sigma[0]] ** 2).sum()


def _nc2(name, V, norm_ddof, pair_ddof):
  C = len(V)
  norms = np.linalg.norm(V, axis=1)
  cosine = _off_diagonal((V / norms[:, None]) @ (V / norms[:, None]).T)
  return {
    f"nc2/equinorm_{name}": norms.std(ddof=norm_ddof) / norms.mean(),
    f"nc2/equiangular_{name}": np.abs(cosine + 1 / (C - 1)).mean(),
    f"nc2/angle_std_{name}": cosine.std(ddof=pair_ddof),
    f"nc2/etf_{name}": _etf(V @ V.T),
    f"norm/{name}": norms.mean(),
  }


def _etf(G):
  C = len(G)
  return np.linalg.norm(G / np.linalg.norm(G) - (np.eye(C) - 1 / C) / np.sqrt(C - 1))


def _off_diagonal(matrix):
  return matrix[~np.eye(len(matrix), dtype=bool)]
