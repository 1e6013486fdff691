"""E3a: does more training on coarse labels make features worse for the fine ones?

  python -m nc_jax.experiments e3a --scale=standin --workdir=runs/standin

Trained on coarse labels; at observed epochs and at every layer, probes of the frozen features
learn the fine ones. Scales as in configs/e1.py.
"""

from configs import cifar10, digits, mnist, paper
from configs.e1 import cell, log_spaced, observe_log_spaced


def scales():
  return ("standin", "narrow", "paper")


def cells(scale: str) -> list[dict]:
  if scale == "standin":
    found = []
    for label_map, loss in (
      ("halves", "cross_entropy"),
      ("halves", "squared_error"),
      ("parity", "cross_entropy"),
    ):
      config = digits.get_config()
      config.data.balance = True
      config.data.label_map = (label_map,)
      config.loss.name = loss
      config.optim.peak_lr = 0.1
      observe_log_spaced(config)
      found.append(cell(f"{label_map}, {loss}", config))
  elif scale == "narrow":
    halves, animals = mnist.get_config(), cifar10.get_config("narrow")
    halves.data.label_map = ("halves",)
    halves.observe.epochs = log_spaced(halves.optim.total_epochs, 24)
    animals.data.label_map = ("animals_vehicles",)
    found = [
      cell("mnist/mlp, halves", halves),
      cell("cifar10/resnet18, animals_vehicles", animals),
    ]
  else:
    found = []
    for loss in paper.LOSSES:
      config = paper.get_config(f"cifar10,resnet18,{loss}")
      config.data.label_map = ("animals_vehicles",)
      found.append(cell(f"cifar10/resnet18, animals_vehicles, {loss}", config))
  for each in found:
    each["config"].probe = {"target": "fine", "every_layer": ("ridge",)}
  return found
