"""Collapse moments in a clu Collection: merged, gathered over devices, reduced, computed."""

import clu.metrics
import clu.values
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

import nc_jax as nc
from nc_jax.metrics import clu_adapter

K, D, N = worlds.K, worlds.D, worlds.N


@flax.struct.dataclass
class Metrics(clu.metrics.Collection):
  loss: clu.metrics.Average.from_output("loss")
  collapse: clu_adapter.collapse_metric(K, D)
  cdnv: clu_adapter.collapse_metric(K, D, features="taps", key="nc1/cdnv", scatter=False)


def outputs(world, part=slice(None)):
  features, labels = world.features[part], world.labels[part]
  return {"loss": features[:, 0], "features": features, "taps": features, "labels": labels}


def assert_same(values, world):
  expected = nc.measure(nc.ClassMoments.of(*world[:2], K))
  assert values["collapse"].keys() == expected.keys()
  for key, value in expected.items():
    np.testing.assert_allclose(values["collapse"][key], value, rtol=1e-5, atol=1e-7, err_msg=key)
  np.testing.assert_allclose(values["cdnv"], expected["nc1/cdnv"], rtol=1e-5)


def test_sequential_merge():
  world = worlds.clusters(std=0.1)
  metrics = Metrics.empty()
  for start in range(0, N, 50):
    batch = outputs(world, slice(start, start + 50))
    metrics = metrics.merge(Metrics.single_from_model_output(**batch))
  assert_same(metrics.compute(), world)


@pytest.mark.usefixtures("four_devices")
def test_gathered_and_reduced_over_devices():
  world = worlds.clusters(std=0.1)
  batches = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), outputs(world))

  def step(batch):
    return Metrics.gather_from_model_output(axis_name="batch", **batch)

  metrics = jax.pmap(step, axis_name="batch")(batches).unreplicate()
  assert_same(metrics.compute(), world)


def test_masked_examples_are_absent():
  world = worlds.clusters()
  keep = np.arange(N) < 150
  masked = Metrics.single_from_model_output(**outputs(world), mask=keep)
  only = Metrics.single_from_model_output(**outputs(world, keep))
  np.testing.assert_array_equal(masked.collapse.moments.count, only.collapse.moments.count)
  np.testing.assert_allclose(
    masked.collapse.moments.spread, only.collapse.moments.spread, rtol=1e-5
  )


def test_empty_causes_no_retrace():
  world = worlds.clusters()
  traces = []

  @jax.jit
  def step(metrics, batch):
    traces.append(1)
    return metrics.merge(Metrics.single_from_model_output(**batch))

  metrics = step(Metrics.empty(), outputs(world))
  step(metrics, outputs(world))
  assert len(traces) == 1


def test_compute_value_is_for_one_number():
  metric = clu_adapter.collapse_metric(K, D, key="nc1/trace_ratio")
  world = worlds.clusters()
  value = metric.from_model_output(features=world.features, labels=world.labels).compute_value()
  assert isinstance(value, clu.values.Scalar) and jnp.shape(value.value) == ()
  with pytest.raises(ValueError, match="key='nc1/pinv'"):
    clu_adapter.collapse_metric(K, D).empty().compute_value()
  with pytest.raises(ValueError, match="key must be one of nc1/pinv, .*; got 'nc1'"):
    clu_adapter.collapse_metric(K, D, key="nc1")


@pytest.mark.parametrize(
  "key, options",
  [("nc1/pinvv", {}), ("nc3/self_duality", {}), ("nc1/vci", {"scatter": False})],
  ids=str,
)
def test_a_key_that_will_never_be_there_is_refused_at_once(key, options):
  with pytest.raises(ValueError, match=f"key must be one of nc1/.*; got '{key}'"):
    clu_adapter.collapse_metric(3, 4, key=key, **options)


def test_options_are_checked_at_once():
  with pytest.raises(ValueError, match="within must be one of samples, classes; got 'x'"):
    clu_adapter.collapse_metric(3, 4, within="x")


def test_a_missing_model_output_is_named():
  metric = clu_adapter.collapse_metric(3, 4, features="penultimate")
  with pytest.raises(ValueError, match="no model output is called 'penultimate'; there are logits"):
    metric.from_model_output(logits=np.zeros((2, 3)), labels=np.zeros(2, int))
