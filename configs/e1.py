"""E1: does the test sample collapse when the train sample does?

  python -m nc_jax.experiments e1 --scale=standin --workdir=runs/standin

A cell is a config and a name; seeds are added by the command. A negative cell must fail.

Scales:
  standin   the digits; minutes on two CPU cores
  narrow    MNIST and CIFAR-10 with small networks and few images; an hour on two CPU cores
  paper     every data set, network and loss of configs/paper.py; for accelerators
"""

from configs import cifar10, digits, mnist, paper


def scales():
  return ("standin", "narrow", "paper")


def cells(scale: str) -> list[dict]:
  if scale == "standin":
    variants = {"cross_entropy": "base", "squared_error": "squared_error"}
    found = [cell(name, digits.get_config(variant)) for name, variant in variants.items()]
    found.append(cell("no batch norm", digits.get_config("plain"), negative=True))
    for each in found:
      observe_log_spaced(each["config"])
  elif scale == "narrow":
    found = [
      cell("mnist/mlp/cross_entropy", mnist.get_config()),
      cell("cifar10/resnet18/squared_error", cifar10.get_config("narrow")),
    ]
  else:
    found = [
      cell(f"{dataset}/{network}/{loss}", paper.get_config(f"{dataset},{network},{loss}"))
      for dataset in paper.DATASETS
      for network in paper.NETWORKS
      for loss in paper.LOSSES
    ]
  for each in found:
    each["config"].observe.layers = ()  # the penultimate alone
    each["config"].observe.bootstrap_nc1 = True  # all forms of NC1 are compared along training
  return found


def cell(name: str, config, negative: bool = False, **values) -> dict:
  """A cell; intervals over examples come with every experiment."""
  config.observe.bootstrap = 200
  config.checkpoint.every_epochs = max(1, config.optim.total_epochs // 10)
  config.checkpoint.max_to_keep = 1
  return {"name": name, "config": config, "values": values, "negative": negative}


def observe_log_spaced(config):
  """A stand-in is observed less often than the field does: its runs are short, and many."""
  config.observe.epochs = log_spaced(config.optim.total_epochs, 24)


def log_spaced(total: int, number: int) -> tuple[int, ...]:
  """1, ..., total: epochs about equal factors apart."""
  return tuple(sorted({round(total ** (i / (number - 1))) for i in range(number)}))
