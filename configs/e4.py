"""E4: where and when do layers before the last collapse?

  python -m nc_jax.experiments e4 --scale=standin --workdir=runs/standin

Every layer is measured, and probed for the training labels at a few epochs. Scales as in
configs/e1.py.
"""

from configs import cifar10, digits, mnist, paper
from configs.e1 import cell, observe_log_spaced


def scales():
  return ("standin", "narrow", "paper")


def cells(scale: str) -> list[dict]:
  if scale == "standin":
    config = digits.get_config()
    config.model.depth = 8
    config.optim.peak_lr = 0.1
    observe_log_spaced(config)
    found = [cell("depth 8, cross_entropy", config)]
  elif scale == "narrow":
    config = mnist.get_config()
    config.model.depth = 8
    found = [
      cell("mnist/mlp, depth 8", config),
      cell("cifar10/resnet18/squared_error", cifar10.get_config("narrow")),
    ]
  else:
    found = [
      cell(f"cifar10/{network}/cross_entropy", paper.get_config(f"cifar10,{network},cross_entropy"))
      for network in ("resnet18", "vgg13", "densenet40")
    ]
  for each in found:
    each["config"].probe = {"target": "fine", "epochs": (), "logistic": (), "knn": ()}
    each["config"].observe.bootstrap_ranks = True
  return found
