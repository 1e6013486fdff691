import pytest

from nc_jax import command_line
from nc_jax.errors import UserError
from tests.configs import ROOT

DIGITS = f"--config={ROOT}/configs/digits.py"


def parse(*arguments):
  return command_line.parse(["main", *arguments])


def test_flags_are_read_in_any_order_and_either_form():
  request = parse(
    "--config.optim.peak_lr=0.1", "--workdir", "w", DIGITS, "--noconfig.model.batch_norm"
  )
  assert request.workdir.name == "w" and not request.observe_only
  assert request.config.optim.peak_lr == 0.1 and request.config.model.batch_norm is False
  assert parse(f"{DIGITS}:plain", "--workdir=w").config.model.batch_norm is False


def test_none_takes_the_place_of_a_value_and_the_last_word_counts():
  overrides = "--config.model.depth=None", "--config.data.dir", "None"
  config = parse("--workdir=w", DIGITS, *overrides).config
  assert config.model.depth is None and config.data.dir is None
  for last in (3, None):
    overrides = [f"--config.model.depth={value}" for value in (None, 3, last)]
    assert parse("--workdir=w", DIGITS, *overrides).config.model.depth == last


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ([], "--workdir=DIR is missing"),
    (["--workdir=w"], "--config=FILE is missing"),
    (["--workdir=w", "--confg=a.py"], "'--confg=a.py' is not understood. Did you mean --config?"),
    (["--workdir=w", f"--config={ROOT}/README.md"], "must end in .py or, as saved, .json."),
    (["--workdir=w", "--config=no/such.py"], "there is no file no/such.py"),
    (
      ["--workdir=w", f"{DIGITS}:huge"],
      "unknown variant 'huge'; choose base, squared_error, plain",
    ),
    (["--workdir=w", DIGITS, "--config.optim.peak_lrr=1"], "Did you mean optim.peak_lr?"),
    (
      ["--workdir=w", DIGITS, "--config.optim.peak_lr=x"],
      "optim.peak_lr = x, but must be a number",
    ),
    (
      ["--workdir=w", DIGITS, "--config.model.width=1.5"],
      "width = 1.5, but must be a whole number >= 1 or None.",
    ),
    (["--workdir=w", DIGITS, "--config.seed=None"], "seed = None, but must be a whole number in"),
    (["--workdir=w", DIGITS, "--config.seed"], "--config.seed"),
    (["--workdir=w", DIGITS, "more"], "'more' is not understood"),
    (["--workdir=w", DIGITS, "--flagfile=seed.txt"], "'--flagfile=seed.txt' is not understood"),
    (["--workdir=w", DIGITS, "-flagfile", "seed.txt"], "'-flagfile' is not understood"),
    (["--workdir=w", DIGITS, "--undefok=seed", "--seed=1"], "'--undefok=seed' is not understood"),
    (["--workdir=w", DIGITS, "--observe_olny"], "Did you mean: observe_only"),
    (["--workdir=w", "--observe_only"], "holds no run to observe"),
  ],
)
def test_a_misunderstanding_is_one_line_that_names_it(arguments, words):
  with pytest.raises(UserError) as refusal:
    parse(*arguments)
  assert words in str(refusal.value)
  assert "\n" not in str(refusal.value)


def test_a_config_file_that_fails_is_named(tmp_path):
  broken = tmp_path / "broken.py"
  broken.write_text("def get_config():\n  return undefined\n")
  with pytest.raises(UserError, match="broken.py.*NameError.*undefined"):
    parse("--workdir=w", f"--config={broken}")
