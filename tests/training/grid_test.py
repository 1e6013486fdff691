"""The grid of choices by the real path: what a config asks for is built and takes two steps.

Compiling is what costs time here, so a network is compiled at its narrowest and on its smallest
images, and where its published depth is only repetition, with one block a stage: the tests of the
models build them whole. One program holds the sum of all losses, whose gradient is finite only if
each one's is; each alone, with each head, trains the MLP.
"""

import functools

import jax
import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from PIL import Image

from nc_jax.errors import UserError
from nc_jax.training import building, heads, loop, losses, models, optim
from tests.configs import tiny
from tests.training.data.prepared_sets import REAL, needs_real

# All that a deep network is made of, once a stage.
SHORTENED = {
  "resnet18": {"blocks": (1, 1, 1, 1)},
  "resnet34": {"blocks": (1, 1, 1, 1)},
  "resnet50": {"blocks": (1, 1, 1, 1)},
  "vgg13": {"convs": (1, 1, 2, 2, 2)},
  "vgg19": {"convs": (1, 1, 2, 2, 2)},
  "densenet40": {"layers": (1, 1, 1)},
  "densenet121": {"layers": (1, 1, 1, 1)},
  "densenet201": {"layers": (1, 1, 1, 1)},
}
LEAST_SIDE = {"resnet": 8, "vgg": 32, "densenet": 8, "vit": 4}
SMALL = {"data__train_size": 64, "data__test_size": 64, "data__batch_size": 16,
         "model__width": 16, "model__depth": 1, "optim__total_epochs": 1}  # fmt: skip
# Of sets that lie in files, all is taken: 16 examples.
OWN = {"data__train_size": None, "data__test_size": None, "data__batch_size": 8}


def small(**changes):
  return tiny(**SMALL | changes)


def noise(side, channels=1, seed=0):
  """16 images and their labels, of four classes."""
  images = np.random.default_rng(seed).integers(0, 256, (16, side, side, channels), np.uint8)
  return images, np.arange(16) % 4


def npz(folder, side):
  """A file of images for the source `arrays`."""
  arrays = {}
  for seed, split in enumerate(("train", "test")):
    arrays[f"{split}_images"], arrays[f"{split}_labels"] = noise(side, seed=seed)
  np.savez(folder / "set.npz", **arrays)
  return str(folder / "set.npz")


def image_folder(root):
  """Files of images for the source `folder`."""
  for seed, split in enumerate(("train", "test")):
    for place, (image, label) in enumerate(zip(*noise(8, 3, seed), strict=True)):
      (root / split / f"class{label}").mkdir(parents=True, exist_ok=True)
      Image.fromarray(image).save(root / split / f"class{label}" / f"{place}.png")
  return str(root)


def two_steps(experiment):
  """The state after two steps, which is finite and not the state before; and their losses."""
  index = next(iter(loop.calls(experiment, 0)))[:2]
  assert len(index) == 2
  before = jax.device_get(experiment.state)
  args = experiment.state, *experiment.feeds["train"](index)
  quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
  state, sums = experiment.program.lower(*args).compile(compiler_options=quick)(*args)
  after = jax.device_get(state)
  assert after.step == 2
  assert np.isfinite(sums["loss"]).all() and sums["loss"].shape == (2,)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(after))
  assert moved(before.params["body"], after.params["body"])
  return before, state


def moved(before, after):
  """Whether some parameter of a tree has changed."""
  pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
  return any((np.asarray(a) != np.asarray(b)).any() for a, b in pairs)


@pytest.mark.parametrize("name", models.MODELS)
def test_every_network_steps_under_every_loss(name, monkeypatch, tmp_path):
  if name in SHORTENED:
    short = functools.partial(models.MODELS[name], **SHORTENED[name])
    monkeypatch.setitem(models.MODELS, name, short)
  build_loss = building.build_loss

  def sum_of_all(config, dataset):
    options = config.loss.to_dict()
    choices = [FrozenConfigDict({"loss": options | {"name": loss}}) for loss in losses.LOSSES]
    each = [build_loss(choice, dataset) for choice in choices]
    return lambda *args: sum(loss(*args) for loss in each)

  monkeypatch.setattr(building, "build_loss", sum_of_all)
  side = next((s for family, s in LEAST_SIDE.items() if name.startswith(family)), 2)
  config = small(
    **OWN,
    data__name="arrays",
    data__dir=npz(tmp_path, side),
    model__name=name,
    model__width=2,
    model__depth=1 if side < 8 else None,
  )
  two_steps(building.build(config))


@pytest.mark.parametrize("head", heads.HEADS)
@pytest.mark.parametrize("loss", losses.LOSSES)
def test_every_loss_steps_with_every_head(loss, head):
  before, after = two_steps(building.build(small(loss__name=loss, head__name=head)))
  learns = head in ("linear", "cosine")
  assert ("head" in before.params) == learns
  assert not learns or moved(before.params["head"], after.params["head"])


@pytest.mark.parametrize(
  ("optimiser", "schedule"),
  [*((name, "step") for name in optim.OPTIMISERS), ("sgd", "cosine"), ("sgd", "constant")],
)
def test_every_optimiser_and_every_schedule_steps(optimiser, schedule):
  config = small(optim__name=optimiser, optim__schedule=schedule, optim__warmup_epochs=0.5)
  two_steps(building.build(config))


def test_every_source_that_needs_no_download_steps(tmp_path):
  sources = {
    "two_digits": {"data__train_size": 1000, "data__test_size": 500},
    "gaussian_mixture": {"data__classes": 4, "data__dim": 5},
    "folder": OWN | {"data__dir": image_folder(tmp_path)},
    "arrays": OWN | {"data__dir": npz(tmp_path, 5)},
  }
  for name, changes in sources.items():
    experiment = building.build(small(data__name=name, **changes))
    assert experiment.dataset.num_classes == (100 if name == "two_digits" else 4)
    two_steps(experiment)


@pytest.mark.parametrize(
  "name", [pytest.param(name, marks=needs_real(name)) for name in ("mnist", "cifar10")]
)
def test_real_sets_step(name):
  # Streamed, so that just the examples of two steps are decoded.
  two_steps(building.build(small(data__name=name, data__dir=str(REAL), data__memory_budget_mib=0)))


def test_bfloat16_leaves_parameters_and_statistics_in_float32():
  experiment = building.build(small(model__precision="bfloat16"))
  program = jax.make_jaxpr(experiment.program)(
    experiment.state, *experiment.feeds["train"](next(iter(loop.calls(experiment, 0))))
  )
  assert "bf16" in str(program)
  _, state = two_steps(experiment)
  kept = (state.params, state.batch_stats, state.opt_state)
  assert {x.dtype for x in jax.tree.leaves(kept) if x.ndim} == {np.dtype("float32")}


@pytest.fixture(scope="module")
def observed():
  """(experiment, {(split, layer, key): value}) with many choices that are not the default."""
  experiment = building.build(
    small(
      data__label_map=("halves",),
      data__noise_rate=0.4,
      data__augment=True,
      model__name="convnet",
      model__width=4,
      head__name="etf",
      observe__pooling="flatten",
    )
  )
  _, state = two_steps(experiment)
  return experiment, {row[:3]: row.value for row in experiment.observer(state).rows}


def test_noisy_coarse_labels_are_observed_as_given_and_as_they_truly_are(observed):
  experiment, values = observed
  assert experiment.dataset.num_classes == 2
  assert {split for split, _, _ in values} == {"train", "test", "train_clean"}
  error = lambda split: values[split, "logits", "error/classifier"]
  assert error("train") != error("train_clean")
  assert values["train", "penultimate", "classes/present"] == 2


def test_taps_are_flattened_on_request_and_say_so(observed):
  experiment, values = observed
  assert {layer for _, layer, _ in values} == {"block1.flatten", "penultimate", "logits"}
  assert experiment.observer._widths["block1.flatten"] == 10 * 10 * 4


def test_a_fixed_head_is_measured_as_the_classifier_that_it_is(observed):
  _, values = observed
  assert values["train", "penultimate", "nc2/etf_weights"] == pytest.approx(0, abs=1e-5)
  for split in ("train", "test", "train_clean"):
    of = lambda layer, split=split: values[split, layer, "error/classifier"]
    assert of("penultimate") == of("logits")


# --- What is refused --------------------------------------------------------------------------

REFUSED = [
  ({"head__name": "etf", "model__width": 8}, "K = 10 classes and D = 8 features"),
  ({"data__label_map": (0, 1, 1)}, "has 3 entries: it misses class 3 (3)"),
  ({"data__label_map": ("animals_vehicles",)}, "misses class 0 (0)"),
  ({"model__stem": "small"}, "config.model.stem = 'small', but must be None: mlp has only"),
  ({"model__name": "resnet18"}, "config.model.depth = 1, but must be None: resnet18 has only"),
  (
    {"model__name": "vit", "model__batch_norm": True},
    "config.model.batch_norm = True, but must be None: vit has only",
  ),
  ({"head__temperature": 0.5}, "config.head.temperature = 0.5, but linear has no such option"),
  ({"head__name": "etf", "head__bias": True}, "config.head.bias = True, but etf has no such"),
  ({"loss__gamma": 1.0}, "config.loss.gamma = 1.0, but cross_entropy has no such option"),
  (
    {"optim__name": "adamw", "optim__momentum": 0.9},
    "config.optim.momentum = 0.9, but adamw has no such option",
  ),
  ({"optim__rho": 0.1}, "config.optim.rho = 0.1, but sgd has no such option"),
  (
    {"optim__schedule": "cosine", "optim__decay_at": (0.5,)},
    "config.optim.decay_at = (0.5,), but cosine has no such option",
  ),
  ({"data__held_out": ("ten",)}, "there is no class 'ten' among 10"),
  ({"data__imbalance": "step"}, "config.data.imbalance_ratio = None, but"),
  ({"data__imbalance_ratio": 2.0}, "config.data.imbalance = None, but"),
  (
    {"data__imbalance": "step", "data__imbalance_ratio": 1000.0},
    "config.data.imbalance_ratio = 1000.0 leaves the smallest class empty",
  ),
  ({"data__augment_padding": "zero"}, "config.data.augment is off"),
  ({"data__name": "gaussian_mixture", "data__augment": True}, "at least 5x5; these are 1x1"),
  ({"data__separation": 2.0}, "the source 'digits' has no use for it"),
  ({"data__name": "folder"}, "config.data.dir = None, but the source 'folder' needs"),
  ({"data__name": "mnist", "data__dir": "/nowhere"}, "no prepared data in /nowhere/mnist"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=[", ".join(c) for c, _ in REFUSED])
def test_what_does_not_go_together_is_refused_in_one_line(changes, words):
  with pytest.raises(UserError) as refusal:
    building.build(small(**changes))
  assert words in str(refusal.value)
  assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "densenet121", "vit"])
def test_small_images_are_refused_by_an_imagenet_stem(name, tmp_path):
  model = {"model__name": name, "model__depth": None, "model__stem": "imagenet"}
  config = small(**OWN, **model, data__name="arrays", data__dir=npz(tmp_path, 28))
  with pytest.raises(UserError, match="need images of at least 64x64; these are 28x28"):
    building.build(config)
