"""E3b: does more training on some classes make features worse for others?

  python -m nc_jax.experiments e3b --scale=standin --workdir=runs/standin

Trained on half of the classes; probes learn the other half. Scales as in configs/e1.py.
"""

from configs import digits, paper
from configs.e1 import cell, observe_log_spaced


def scales():
  return ("standin", "paper")


def cells(scale: str) -> list[dict]:
  found = []
  for loss in ("cross_entropy", "squared_error"):
    if scale == "standin":
      config = digits.get_config()
      config.data.balance = True
      config.data.train_size = 3000  # half of which are of the held-out classes
      config.data.test_size = 3000
      config.optim.peak_lr = 0.1
      observe_log_spaced(config)
      config.loss.name = loss
      name = loss
    else:
      config, name = paper.get_config(f"cifar10,resnet18,{loss}"), f"cifar10/resnet18/{loss}"
    config.data.held_out = (5, 6, 7, 8, 9)
    config.probe = {"target": "held_out", "every_layer": ("ridge",)}
    found.append(cell(name, config))
  return found
