import re

from nc_jax import console as module
from nc_jax.console import Console


def test_speed_is_not_told_of_work_that_was_done_before_the_clock_ran(capsys, monkeypatch):
  times = [100.0, 100.01, 102.0, 104.0]
  monkeypatch.setattr(module.time, "monotonic", lambda: times[epoch])
  monkeypatch.setattr(module, "_DUE", (0, 1, 2, 3))
  epoch = 0
  with Console(total_epochs=4, steps_per_epoch=10) as console:
    for epoch in range(4):
      console.trained(10 * epoch, 0.5)
      console.observed(10 * epoch, (0.25, 0.5), (0.1, 0.2), (0.001, 30.0))
  speeds = re.findall(r"(\S+) steps/s  (\S+) left", capsys.readouterr().err)
  assert speeds == [("-", "-"), ("-", "-"), ("10", "0:00:02"), ("7.5", "0:00:01")]


def test_without_a_terminal_lines_come_at_a_sensible_rate(capsys, monkeypatch):
  clock = iter(range(10**6))
  monkeypatch.setattr(module.time, "monotonic", lambda: next(clock) / 100)
  with Console(total_epochs=300, steps_per_epoch=10) as console:
    for epoch in range(301):
      console.trained(10 * epoch, 0.5)
      console.observed(10 * epoch, (0.25, 0.5), (0.1, 0.2), (0.001, 30.0))
  lines = capsys.readouterr().err.splitlines()
  told = [
    int(re.match(r"epoch (\d+)/300  loss 0.2500  error 0.1000/0.2000  NC1 0.001/30", l)[1])
    for l in lines
  ]
  assert told == [0, 1, 2, 5, 10, 20, 50, 100, 200, 300]
  assert re.search(r"\d+ steps/s  0:00:00 left$", lines[-1])


def test_sparse_observations_are_told_too(capsys):
  with Console(total_epochs=300, steps_per_epoch=10) as console:
    for epoch in (0, 3, 4, 7, 60, 300):
      console.observed(10 * epoch, (0.25, 0.5), (0.1, 0.2), (0.001, 30.0))
  told = [line.split("/")[0] for line in capsys.readouterr().err.splitlines()]
  # 4 passes no mark that 3 has not passed.
  assert told == ["epoch 0", "epoch 3", "epoch 7", "epoch 60", "epoch 300"]
