"""A run writes in its workdir, and nowhere else."""

import pytest

from nc_jax import workdirs
from nc_jax.errors import UserError
from nc_jax.experiments import runner
from nc_jax.experiments.results import Cell
from tests.configs import load, tiny


@pytest.fixture
def places(tmp_path):
  """A workdir, and a folder beside it that holds a file."""
  workdir, outside = tmp_path / "workdir", tmp_path / "workdir_of_another"
  workdir.mkdir()
  outside.mkdir()
  (outside / "kept").write_text("kept")
  return workdir, outside


@pytest.mark.parametrize("name", ["runs", "tensorboard", "checkpoints", "runs/cell/seed0"])
def test_a_folder_that_is_a_link_out_of_the_workdir_is_refused(places, name):
  workdir, outside = places
  link = workdir / name
  link.parent.mkdir(parents=True, exist_ok=True)
  link.symlink_to(outside)
  with pytest.raises(UserError, match=f"{link} is a link out of the workdir, to {outside}"):
    with workdirs.held(workdir):
      pass
  assert [path.name for path in outside.iterdir()] == ["kept"]


@pytest.mark.parametrize("name", [".lock", "metrics.csv", "config.json", "runs/a/metrics.csv"])
@pytest.mark.parametrize("target", ["kept", "absent"])
def test_a_file_that_is_a_link_out_of_the_workdir_is_refused_and_the_target_is_whole(
  places, name, target
):
  workdir, outside = places
  link = workdir / name
  link.parent.mkdir(parents=True, exist_ok=True)
  link.symlink_to(f"{'../' * len(link.relative_to(workdir).parts)}{outside.name}/{target}")
  with pytest.raises(UserError, match=f"{link} is a link out of the workdir"):
    with workdirs.opened(workdir, tiny()):
      pass
  assert [path.name for path in outside.iterdir()] == ["kept"]
  assert (outside / "kept").read_text() == "kept"


def test_a_workdir_may_be_a_link_and_hold_links_to_its_own_files(places, tmp_path):
  workdir, _ = places
  (tmp_path / "alias").symlink_to(workdir)
  (workdir / "note").write_text("kept")
  (workdir / ".lock").symlink_to("note")
  for path in (workdir, tmp_path / "alias"):
    with workdirs.held(path):
      assert (workdir / "note").read_text() == "kept"


@pytest.mark.parametrize(
  "name", ["..", ".", "", "../..", "../../x", "/", "/etc", "~", "..\\..", ".hidden", "a\0b\nc", "Ä"]
)
def test_a_cell_of_any_name_has_a_folder_of_its_own_among_the_runs(tmp_path, name):
  (job,) = runner.plan([Cell(name, load("digits"))], [0], tmp_path)
  folder = job.folder.relative_to(tmp_path)
  assert folder.parts[0] == "runs" and folder.parts[2] == "seed0" and len(folder.parts) == 3
  assert not folder.parts[1].startswith(".") and folder.parts[1].isascii()


def test_names_that_would_share_a_folder_are_refused(tmp_path):
  with pytest.raises(UserError, match="The names '..' and '_' would share"):
    runner.plan([Cell("..", load("digits")), Cell("_", load("digits"))], [0], tmp_path)
