import pytest

from nc_jax import settings
from tests.configs import ROOT, load

CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


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
