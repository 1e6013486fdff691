"""The numbers of a run against float64 NumPy, from the restored checkpoint on."""

import jax
import numpy as np
import pytest

from nc_jax import writers
from nc_jax.console import Console
from nc_jax.training import building, checkpoints, loop
from nc_jax.training.data import Split
from nc_jax.training.observe import Observer
from tests.configs import tiny
from tests.metrics import oracle


def forward(variables, x):
  """The MLP in evaluation mode, in float64: {layer: features}, logits."""
  params, stats = variables["params"]["body"], variables["batch_stats"]["body"]
  head = variables["params"]["head"]
  x, taps = x.reshape(len(x), -1), {}
  for layer in (1, 2):
    linear, norm, running = (t[f"{n}{layer}"] for t, n in (
      (params, "linear"), (params, "norm"), (stats, "norm")))  # fmt: skip
    x = x @ linear["kernel"] + linear["bias"]
    x = (x - running["mean"]) / np.sqrt(running["var"] + 1e-5) * norm["scale"] + norm["bias"]
    x = np.maximum(x, 0)
    taps[layer] = x
  return {"layer1": taps[1], "penultimate": taps[2]}, x @ head["kernel"] + head["bias"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(experiment, rows of the last epoch, {split: (taps, logits, labels)} in float64, head)."""
  workdir = tmp_path_factory.mktemp("run")
  config = tiny(optim__total_epochs=6)
  experiment = building.build(config)
  loop.train(experiment, workdir, Console(6, experiment.steps_per_epoch))
  state = checkpoints.Checkpoints(workdir).restore_latest(like=building.build(config).state)
  as_float64 = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(tree))
  variables = as_float64(state.variables)
  data, outputs = experiment.dataset, {}
  for split in ("train", "test"):
    images, labels = getattr(data, split).images, getattr(data, split).labels
    x = images * np.float64(data.scale) + np.float64(data.shift)
    outputs[split] = (*forward(variables, x), labels)
  table = writers.read_csv(workdir / "metrics.csv")
  last = {(r["split"], r["layer"], r["key"]): r["value"] for r in table if r["epoch"] == 6}
  head = variables["params"]["head"]
  return experiment, state, last, outputs, (head["kernel"].T, head["bias"])


def again(experiment, state, feeds, *args, **options):
  """Another observer of the experiment's network."""
  own = experiment.observer
  return Observer(own._apply, own._classifier, own._loss_of, feeds, state, 10, *args, **options)


def test_losses_and_errors_of_the_last_epoch(run):
  _, _, last, outputs, _ = run
  for split, (_, logits, labels) in outputs.items():
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(labels)), labels]).mean()
    assert last[split, "logits", "loss"] == pytest.approx(loss, rel=1e-5)
    error = np.mean(logits.argmax(1) != labels)
    assert last[split, "logits", "error/classifier"] == pytest.approx(error, abs=1e-7)


def test_every_metric_of_the_last_epoch_agrees_with_float64(run):
  _, _, last, outputs, head = run
  checked = 0
  for split, (taps, _, labels) in outputs.items():
    for layer, features in taps.items():
      with_head = head if layer == "penultimate" else (None, None)
      expected = oracle.measure(features, labels, 10, *with_head)
      if split == "test":
        train_taps, _, train_labels = outputs["train"]
        collapse = oracle.test_collapse(
          (train_taps[layer], train_labels), (features, labels), 10, *with_head
        )
        # The rows of split `test` are the test features' own: these keys would repeat them.
        expected |= {k: v for k, v in collapse.items() if k.split("/")[0] != "train"}
        expected = {k: v for k, v in expected.items() if not k.startswith("strong/nc1/")}
      measured = {key: v for (s, l, key), v in last.items() if (s, l) == (split, layer)}
      assert set(measured) == set(expected)
      for key, value in expected.items():
        # The network itself runs in float32: features are good to 1e-6 of their size. The ranks
        # come from squared singular values, good to 3e-4 of the largest.
        rtol = 3e-3 if key.startswith("rank/") else 2e-4
        assert measured[key] == pytest.approx(value, rel=rtol, abs=1e-6), (split, layer, key)
        checked += 1
  assert checked > 140


def test_observation_does_not_depend_on_how_the_examples_are_cut(run):
  """Odd sizes: padding is masked, the last batch is not dropped, and calls are added up."""
  experiment, state, _, _, _ = run
  whole = {row[:3]: row.value for row in experiment.observer(state).rows}
  for batch_size, steps_per_call in ((1, 3), (7, 128), (1000, 128)):
    observer = again(experiment, state, experiment.feeds, batch_size)
    observer.steps_per_call = steps_per_call
    for row in observer(state).rows:
      assert row.value == pytest.approx(whole[row[:3]], rel=2e-4, abs=1e-6), (batch_size, row)


def test_splits_of_unlike_sizes_share_one_compiled_shape(run):
  experiment, state, _, _, _ = run
  observer = again(experiment, state, experiment.feeds, 8)  # 4 steps of 4 devices, and 3
  fold, shapes = observer._fold, []

  def noting(variables, images, labels, index, mask):
    shapes.append(index.shape)
    return fold(variables, images, labels, index, mask)

  observer._fold = noting
  observer(state)
  assert shapes == [(3, 4, 8)] * 3  # 4 steps are two calls of 3


def test_a_label_map_of_the_wrong_example_would_be_seen(run):
  """The feeds pair images with labels: shuffled labels change NC4 and the loss."""
  experiment, state, last, _, _ = run
  train = experiment.dataset.train
  rolled = Split(train.images, np.roll(train.labels, 1))
  feeds = {
    "train": type(experiment.feeds["train"])(rolled, resident=True),
    "test": experiment.feeds["test"],
  }
  observer = again(experiment, state, feeds, 20)
  rows = {row[:3]: row.value for row in observer(state).rows}
  key = ("train", "logits", "error/classifier")
  assert rows[key] > last[key] + 0.3


def test_a_wide_layer_is_measured_without_a_scatter(run):
  experiment, state, last, _, _ = run
  observer = again(experiment, state, experiment.feeds, 20, ("layer1",), max_scatter_dim=16)
  rows = {row[:3]: row.value for row in observer(state).rows}
  missing = {key for place in last for key in [place[2]] if (*place[:2], key) not in rows}
  assert missing == {
    "nc1/vci", "weak/nc1/vci", "weak/nc1/pinv",
    "rank/effective", "rank/stable", "rank/numerical", "rank/nuclear",
  }  # fmt: skip
  for place, value in rows.items():
    assert value == pytest.approx(last[place], rel=2e-4, abs=1e-6), place
