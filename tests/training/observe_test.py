"""The numbers of a run against float64 NumPy, from the restored checkpoint on."""

import jax
import numpy as np
import pytest

from nc_jax import writers
from nc_jax.console import Console
from nc_jax.training import checkpoints, loop
from nc_jax.training.data import Split
from nc_jax.training.observe import Observer
from tests.configs import tiny
from tests.metrics import oracle


def forward(variables, x):
  """The MLP in evaluation mode, in float64: {layer: features}, logits."""
  params, stats = variables["params"], variables["batch_stats"]
  x, taps = x.reshape(len(x), -1), {}
  for layer in (1, 2):
    linear, norm, running = (t[f"{n}{layer}"] for t, n in (
      (params, "linear"), (params, "norm"), (stats, "norm")))  # fmt: skip
    x = x @ linear["kernel"] + linear["bias"]
    x = (x - running["mean"]) / np.sqrt(running["var"] + 1e-5) * norm["scale"] + norm["bias"]
    x = np.maximum(x, 0)
    taps[layer] = x
  return {"layer1": taps[1], "penultimate": taps[2]}, x @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(experiment, rows of the last epoch, {split: (taps, logits, labels)} in float64, head)."""
  workdir = tmp_path_factory.mktemp("run")
  config = tiny(optim__total_epochs=6)
  experiment = loop.build(config)
  loop.train(experiment, workdir, Console(6, experiment.steps_per_epoch))
  state = checkpoints.Checkpoints(workdir).restore_latest(like=loop.build(config).state)
  as_float64 = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(tree))
  variables = as_float64(state.variables)
  data, outputs = experiment.dataset, {}
  for split in ("train", "test"):
    images, labels = getattr(data, split)
    x = images * np.float64(data.scale) + np.float64(data.shift)
    outputs[split] = (*forward(variables, x), labels)
  table = writers.read_csv(workdir / "metrics.csv")
  last = {
    (r["split"], r["layer"], r["key"]): r["value"] for r in table if r["epoch"] == 6
  }
  head = variables["params"]["head"]
  return experiment, state, last, outputs, (head["kernel"].T, head["bias"])


def test_losses_and_errors_of_the_last_epoch(run):
  _, _, last, outputs, _ = run
  for split, (_, logits, labels) in outputs.items():
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(labels)), labels]).mean()
    assert last[split, "logits", "loss"] == pytest.approx(loss, rel=1e-5)
    error = np.mean(logits.argmax(1) != labels)
    assert last[split, "logits", "error/classifier"] == pytest.approx(error, abs=1e-7)
