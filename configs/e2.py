"""E2: is the gap between train and test collapse a matter of too little data?

  python -m nc_jax.experiments e2 --scale=standin --workdir=runs/standin

The same test set, n train examples; with a fixed number of updates (epochs scaled by 1/n) and with
a fixed number of epochs. Scales as in configs/e1.py.
"""

from configs import digits, paper
from configs.e1 import cell, log_spaced


def scales():
  return ("standin", "paper")


def cells(scale: str) -> list[dict]:
  if scale == "standin":
    sizes, reference, epochs = (150, 300, 750, 1500, 3000, 6000), 1500, 300
    base = digits.get_config()
    base.optim.peak_lr = 0.1
    base.data.test_size = 1500
  else:
    sizes, reference, epochs = (500, 1000, 2500, 5000, 10_000, 25_000, 50_000), 50_000, 350
    base = paper.get_config("cifar10,resnet18,cross_entropy")
  base.observe.layers = ()
  found = []
  for n in sizes:
    for budget in ("both",) if n == reference else ("updates", "epochs"):
      config = base.copy_and_resolve_references()
      config.data.train_size = n
      if budget == "updates":
        config.optim.total_epochs = round(epochs * reference / n)
      config.observe.epochs = log_spaced(config.optim.total_epochs, 12)
      found.append(cell(f"n={n}, {budget}", config, n=n, budget=budget))
  return found
