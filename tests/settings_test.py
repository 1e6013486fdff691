import json
import pathlib

import ml_collections
import pytest

from nc_jax import settings
from nc_jax.errors import UserError
from tests.configs import load

GOOD = load("digits")


def changed(**flat):
  config = load("digits").copy_and_resolve_references()
  with config.unlocked():
    nested = config.to_dict()
  for key, value in flat.items():
    group, _, name = key.replace("__", ".").rpartition(".")
    (nested[group] if group else nested)[name] = value
  return ml_collections.ConfigDict(nested)


def test_every_setting_is_in_the_default_config_and_no_other():
  assert set(settings.flatten(GOOD)) == set(settings.SETTINGS)


@pytest.mark.parametrize(
  ("key", "value", "words"),
  [
    ("model__width", -3, "config.model.width = -3, but must be a whole number >= 1 or"),
    ("model__width", 1.5, "config.model.width = 1.5, but must be a whole number >= 1 or"),
    ("model__width", True, "must be a whole number"),
    ("model__batch_norm", 1, "must be True or False"),
    ("optim__peak_lr", 0, "must be a number > 0"),
    ("optim__peak_lr", float("nan"), "must be a number > 0"),
    ("optim__weight_decay", float("inf"), "must be a number >= 0"),
    ("optim__momentum", 1.0, "must be a number in [0, 1)"),
    ("optim__decay_at", (0.6, 0.3), "must be increasing shares in (0, 1)"),
    ("observe__epochs", (1, 1), "must be increasing whole numbers >= 0 or None"),
    ("loss__name", "cross_entrop", "Did you mean cross_entropy?"),
    ("data__name", "mnits", "imagenet_resized/64x64. Did you mean mnist?"),
    ("data__batch_size", None, "must be a whole number >= 1."),
    ("seed", 2**32, "must be a whole number in [0, 4294967295]"),
  ],
)
def test_a_bad_value_is_refused_with_key_value_and_what_is_allowed(key, value, words):
  with pytest.raises(UserError) as refusal:
    settings.resolve(changed(**{key: value}))
  message = str(refusal.value)
  assert words in message
  assert message.startswith(f"config.{key.replace('__', '.')} = {value!r}")
  assert "\n" not in message


def test_unknown_and_missing_keys_are_named():
  with pytest.raises(
    UserError, match=r"config.optim.peak_lrr is not a setting. Did you mean optim"
  ):
    settings.resolve(changed(optim__peak_lrr=0.1))
  with pytest.raises(
    UserError, match=r"learning_rate is not a setting; optim has name, peak_lr, .*steps_per_call\.$"
  ):
    settings.resolve(changed(optim__learning_rate=0.1))
  config = changed()
  del config.optim.peak_lr
  with pytest.raises(UserError, match=r"config.optim.peak_lr is missing: learning rate"):
    settings.resolve(config)


def test_whole_numbers_serve_as_real_ones_and_names_may_be_joined_by_commas():
  config = settings.resolve(changed(optim__peak_lr=1, observe__layers=("layer1,layer2",)))
  assert config.optim.peak_lr == 1.0 and isinstance(config.optim.peak_lr, float)
  assert config.observe.layers == ("layer1", "layer2")


def test_a_config_survives_the_way_through_json(tmp_path: pathlib.Path):
  config = settings.resolve(changed(observe__epochs=(1, 5), data__dir="somewhere"))
  path = tmp_path / "config.json"
  path.write_text(settings.to_json(config))
  again = settings.from_json(path)
  assert settings.flatten(settings.resolve(again)) == settings.flatten(config)
  assert settings.differences(config, settings.resolve(again)) == []
  again.observe.layers = ("layer1",)  # a None of known type can still be set


def test_a_broken_saved_config_is_named(tmp_path):
  path = tmp_path / "config.json"
  for text in ("{", "[1]", json.dumps({"model": {"widht": 3}})):
    path.write_text(text)
    with pytest.raises(UserError):
      settings.from_json(path)


def test_differences_name_what_matters_and_pass_over_what_does_not():
  old = settings.resolve(changed())
  new = settings.resolve(
    changed(seed=1, optim__total_epochs=3, checkpoint__every_epochs=1, data__device_budget_mib=0)
  )
  assert settings.differences(old, new) == ["optim.total_epochs: 300 -> 3", "seed: 0 -> 1"]
