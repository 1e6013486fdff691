"""Everything, from arrays to NC1 to NC4, in a process of its own: its time and peak memory.

`run` starts this file by its path, so that the process loads one contender and nothing else:

    nc_jax     nc.report without the ranks, with OPENBLAS_NUM_THREADS=1, as the README advises
    traces     the same with scatter=False: no VCI either
    rhubarbwu  github.com/rhubarbwu/neural-collapse as its README uses it: four accumulators, three
               passes in batches of 4096, then NC1 (pinv, quotient, CDNV), NC2 (ETF error, two
               kernels), NC3 (duality error, similarities) and NC4
"""

import functools
import importlib.util
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np

# What JAX's LAPACK needs so as not to wait for XLA's threads; the peer's library is another.
SETTINGS = dict.fromkeys(("nc_jax", "traces"), {"OPENBLAS_NUM_THREADS": "1"})
CONTENDERS = {"nc_jax": (), "traces": (), "rhubarbwu": ("torch", "neural_collapse")}  # their needs
BATCH = 4096
BUDGET = 40.0  # s; what takes a contender longer is sampled and scaled
PAIRS = 2048  # classes of which the contender's pairwise kernels are timed, if there are more


def missing(contender: str) -> str | None:
  """What would have to be installed to run a contender; None if nothing."""
  absent = [name for name in CONTENDERS[contender] if importlib.util.find_spec(name) is None]
  return " and ".join(absent) or None


def run(contender: str, size, repeats: int, on_gpu: bool) -> dict:
  """Runs a contender in a process of its own. Raises RuntimeError with its last words.

  Returns: what `main` prints.
  """
  root = str(pathlib.Path(__file__).parents[2])
  path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
  device = "cuda" if on_gpu else "cpu"
  numbers = [str(number) for number in (size.n, size.d, size.k, repeats)]
  done = subprocess.run(
    [sys.executable, "-P", __file__, contender, device, *numbers],
    env=os.environ | {"PYTHONPATH": path} | SETTINGS.get(contender, {}),
    capture_output=True,
    text=True,
  )
  if done.returncode != 0:
    words = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    raise RuntimeError(words[0])
  return json.loads(done.stdout.splitlines()[-1])


def examples(n: int, d: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Features [N, D] float32, labels [N] int32, weight [K, D], bias [K]; always the same.

  Classes are balanced as far as N allows and come in random order.
  """
  rng = np.random.default_rng(0)
  labels = rng.permutation(n).astype(np.int32) % k
  means = rng.standard_normal((k, d), np.float32)
  features = rng.standard_normal((n, d), np.float32)
  features *= 0.1
  for start in range(0, n, BATCH):  # in pieces: the peak of memory is to be the contender's
    rows = slice(start, start + BATCH)
    features[rows] += means[labels[rows]]
  return features, labels, means, rng.standard_normal(k).astype(np.float32)


def two_passes(features, labels, num_classes: int):
  """What a plain NumPy program writes: class means, then the scatter about them."""
  means = np.zeros((num_classes, features.shape[1]), np.float32)
  for label in range(num_classes):
    rows = features[labels == label]
    means[label] = rows.mean(axis=0) if len(rows) else 0
  centred = features - means[labels]
  spread = np.bincount(labels, (centred**2).sum(axis=1), num_classes)
  return means, spread, centred.T @ centred


def _nc_jax(arrays, k: int, device: str, repeats: int, scatter: bool = True) -> dict:
  import jax

  import nc_jax as nc
  from nc_jax.benchmarks.timing import interleave

  jax.config.update("jax_enable_compilation_cache", False)
  features, labels, weight, bias = arrays

  def everything():
    options = {"scatter": scatter, "ranks": False}
    return nc.report(features, labels, num_classes=k, weight=weight, bias=bias, **options)

  timing = interleave({"report": everything}, repeats, BUDGET)["report"]
  stats = jax.devices()[0].memory_stats() or {}
  return {
    "samples": timing.samples,
    "compiling": timing.compiling,
    "scaled": False,
    "device_peak": stats.get("peak_bytes_in_use"),
  }


def _rhubarbwu(arrays, k: int, device: str, repeats: int) -> dict:
  import torch

  device = device if torch.cuda.is_available() else "cpu"
  features, labels, weight, _ = (torch.from_numpy(array).to(device) for array in arrays)
  samples, scaled = [], False
  for _ in range(repeats):
    seconds, scaled = _rhubarbwu_once(features, labels.long(), weight, k, device)
    samples.append(seconds)
    if sum(samples) > BUDGET:
      break
  peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
  return {"samples": samples, "compiling": 0.0, "scaled": scaled, "device_peak": peak}


def _rhubarbwu_once(features, labels, weight, k: int, device: str) -> tuple[float, bool]:
  """Seconds, and whether a part of them was scaled up from a sample."""
  from neural_collapse import accumulate, kernels, measure

  n, d = features.shape
  size = next(size for size in (BATCH, BATCH - 1, BATCH - 2) if n % size != 1)  # 1 raises
  tile = next(tile for tile in (64, 63, 62) if k % tile != 1)  # so it does in its tiles
  total, scaled = 0.0, False

  def walk(step):
    nonlocal total, scaled
    began, starts = time.perf_counter(), range(0, n, size)
    for done, start in enumerate(starts, 1):
      step(features[start : start + size], labels[start : start + size])
      if done > 2 and time.perf_counter() - began > BUDGET / 4:
        break
    total += (time.perf_counter() - began) * len(starts) / done
    scaled |= done < len(starts)

  means_of = accumulate.MeanAccumulator(k, d, device)
  walk(means_of.accumulate)
  means, centre = means_of.compute()
  spread_of = accumulate.VarNormAccumulator(k, d, device, M=means)
  scatter_of = accumulate.CovarAccumulator(k, d, device, M=means)

  def second(x, y):
    spread_of.accumulate(x, y, means)
    scatter_of.accumulate(x, y, means)

  walk(second)
  decisions = accumulate.DecAccumulator(k, d, device, M=means, W=weight)
  walk(lambda x, y: decisions.accumulate(x, y, weight, means))

  began = time.perf_counter()
  spread, scatter = spread_of.compute()[0], scatter_of.compute()
  measure.covariance_ratio(scatter, means, centre)
  measure.covariance_ratio(scatter, means, centre, "quotient")
  measure.similarities(weight, means, centre).var().item()
  measure.clf_ncc_agreement(decisions)
  total += time.perf_counter() - began

  began, some = time.perf_counter(), slice(0, min(k, PAIRS))
  measure.variability_cdnv(spread[some], means[some], tile_size=tile)
  measure.simplex_etf_error(means[some], centre)
  measure.self_duality_error(weight[some], means[some], centre)
  kernels.kernel_stats(means[some], centre, tile_size=tile)
  kernels.kernel_stats(means[some], centre, kernel=kernels.log_kernel, tile_size=tile)
  total += (time.perf_counter() - began) * (k / min(k, PAIRS)) ** 2
  return total, scaled or k > PAIRS


def _peak() -> int:
  """Largest resident memory of this process so far, in bytes."""
  status = pathlib.Path("/proc/self/status")
  if status.exists():  # Linux, where getrusage would count the process that started this one
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main(contender: str, device: str, *numbers: str):
  """Prints one line of JSON: samples, compiling, scaled, device_peak; data and peak in bytes."""
  n, d, k, repeats = map(int, numbers)
  arrays = examples(n, d, k)
  traces = functools.partial(_nc_jax, scatter=False)
  contend = {"nc_jax": _nc_jax, "traces": traces, "rhubarbwu": _rhubarbwu}[contender]
  result = contend(arrays, k, device, repeats)
  data = sum(array.nbytes for array in arrays)
  print(json.dumps(result | {"data": data, "peak": _peak()}))


if __name__ == "__main__":
  main(*sys.argv[1:])
