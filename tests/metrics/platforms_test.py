"""What accelerators would run, as far as a CPU can tell: it lowers, and no product is rounded."""

import jax
import numpy as np
import pytest
import worlds

import nc_jax as nc

K, D, N = worlds.K, worlds.D, worlds.N


def loss(features, labels):
  values = nc.measure(nc.ClassMoments.of(features, labels, K))
  return values["nc1/pinv"] + values["nc1/vci"]


PROGRAMS = {
  "accumulate": lambda features, labels, moments, head: nc.accumulate(moments, features, labels),
  "decide": lambda features, labels, moments, head: nc.decide(features, labels, moments, head),
  "measure": lambda features, labels, moments, head: nc.measure(moments, head),
  "within_covariance": lambda features, labels, moments, head: nc.metrics.within_covariance(
    features, labels, moments
  ),
  "gradient": lambda features, labels, moments, head: jax.grad(loss)(features, labels),
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("platform", ["tpu", "cuda", "rocm"])
def test_products_keep_full_precision(platform, program, monkeypatch):
  """A TPU would otherwise round the factors to bfloat16, and a GPU to TF32."""
  monkeypatch.setattr(jax, "default_backend", lambda: platform)
  features, labels, weight, bias = worlds.clusters()
  moments = nc.ClassMoments.empty(K, D)
  traced = jax.jit(PROGRAMS[program]).trace(
    features, labels.astype(np.int32), moments, nc.Head(weight, bias)
  )
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
  assert products
  assert [line for line in products if "precision = [HIGHEST, HIGHEST]" not in line] == []
