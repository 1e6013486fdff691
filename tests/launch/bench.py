"""A bench for launch scripts: stand-ins for the programs that they call."""

import os
import pathlib
import shlex
import subprocess
import time

from tests.configs import ROOT

LAUNCH = ROOT / "launch"
ARGUMENTS = ["--config=configs/digits.py", "--workdir=bucket/digits"]
AWKWARD = ["--config=my configs/a.py", "--workdir=bucket/it's $HOME", '--config.data.dir="x" *']

# Ten seconds of work, which a program such as ours ends with status 143 when SIGTERM comes.
UNTIL_SIGTERM = "trap 'exit 143' TERM; for ((i = 0; i < 200; i++)); do sleep 0.05; done"


class Bench:
  """A folder with stand-ins for programs, which come before all others on the PATH."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    (folder / "bin").mkdir()
    known = {key: os.environ[key] for key in ("LANG", "LC_ALL", "TMPDIR") if key in os.environ}
    self.env = known | {
      "PATH": f"{folder}/bin:{os.environ['PATH']}",
      "HOME": str(folder),
      "BENCH": str(folder),
      "ZONE": "europe-west4-b",
      "TPU_TYPE": "v5litepod-8",
      "POLL": "0.2",
    }

  def stand_in(self, name: str, body: str = "") -> str:
    """A program that notes its arguments in `calls`, then does what the body says."""
    path = self.folder / "bin" / name
    # One write each: calls at the same time must not mix.
    note = f'line=$(printf %s {name}; printf " %q" "$@"); echo "$line" >>"$BENCH/calls"'
    path.write_text(f"#!/usr/bin/env bash\n{note}\n{body}\n")
    path.chmod(0o755)
    return str(path)

  def calls(self, *beginning: str) -> list[list[str]]:
    """The calls noted so far that begin so, each as its arguments, the program's name first."""
    path = self.folder / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    split = [shlex.split(line) for line in lines]
    return [words for words in split if words[: len(beginning)] == list(beginning)]

  def start(self, script: str, *arguments: str, session=False, **env: str) -> subprocess.Popen:
    return subprocess.Popen(
      ["bash", str(LAUNCH / script), *arguments],
      env=self.env | env, cwd=self.folder, text=True, start_new_session=session,
      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip

  def call(self, script: str, *arguments: str, expect: int = 0, **env: str):
    """Output and error of a script that ends with the status `expect`."""
    process = self.start(script, *arguments, **env)
    out, err = process.communicate(timeout=30)
    assert process.returncode == expect, (out, err)
    return out, err


def until(true, seconds=10.0):
  end = time.monotonic() + seconds
  while not true():
    assert time.monotonic() < end
    time.sleep(0.02)
