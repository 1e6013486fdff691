import itertools

import pytest

from configs import paper
from nc_jax import settings
from nc_jax.training import models
from tests.configs import ROOT, load

ALL = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
EXPERIMENTS = [name for name in ALL if name[0] == "e" and name[1].isdigit()]  # cells, not configs
CONFIGS = sorted(set(ALL) - set(EXPERIMENTS))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_says_only_what_is_allowed_and_how_to_run_it(name):
  config = settings.resolve(load(name))
  assert config.seed == 0
  source = (ROOT / "configs" / f"{name}.py").read_text()
  assert f"python -m nc_jax.main --config=configs/{name}.py --workdir=runs/{name}" in source
  assert len(source.splitlines()) <= 80


def test_variants_change_what_they_say():
  base = settings.resolve(load("digits"))
  squared = settings.resolve(load("digits", "squared_error"))
  plain = settings.resolve(load("digits", "plain"))
  assert settings.differences(base, squared) == ["loss.name: 'cross_entropy' -> 'squared_error'"]
  changed = {text.split(":")[0] for text in settings.differences(base, plain)}
  assert changed == {"model.batch_norm", "optim.weight_decay", "optim.total_epochs"}
  with pytest.raises(ValueError, match="unknown variant 'big'; choose base, squared_error, plain"):
    load("digits", "big")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_says_how_to_run_it(name):
  source = (ROOT / "configs" / f"{name}.py").read_text()
  assert f"python -m nc_jax.experiments {name} --scale=standin --workdir=" in source
  assert len(source.splitlines()) <= 80


def test_the_paper_s_grid():
  for variant in ("mnist,vgg11,squared_error", "cifar100,densenet40,cross_entropy"):
    config = settings.resolve(load("paper", variant))
    assert ",".join((config.data.name, config.model.name, config.loss.name)) == variant
    assert (config.optim.total_epochs, config.optim.weight_decay) == (350, 5e-4)
  sides = {"mnist": 28, "fashion_mnist": 28}
  for dataset, network in itertools.product(paper.DATASETS, paper.NETWORKS):
    config = settings.resolve(load("paper", f"{dataset},{network},cross_entropy"))
    side = config.data.image_size or sides.get(dataset, 32)
    body = models.build(network, image_shape=(side, side, 3))  # else the image is too small for it
    assert body.least_side() <= side
  with pytest.raises(ValueError, match="unknown 'resnet19' in"):
    load("paper", "mnist,resnet19,cross_entropy")
