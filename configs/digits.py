"""The embedded default: real handwritten digits, jittered.

  python -m nc_jax.main --config=configs/digits.py --workdir=runs/digits

The 8 x 8 digits of scikit-learn on a 10 x 10 canvas with noise, 1,500 train and 1,500 test
examples of different base digits; an MLP with batch norm. Expect, on two CPU cores in half a
minute: train and test error 0 and 0.08, V(train) 0.006 and V(test) 0.18.

Variants (`--config=configs/digits.py:plain`):
  base            as above
  squared_error   the same with squared error on one-hot targets
  plain           no batch norm and a tenth of the weight decay: fits, but does not collapse
"""

import ml_collections

VARIANTS = ("base", "squared_error", "plain")


def get_config(variant: str = "base") -> ml_collections.ConfigDict:
  if variant not in VARIANTS:
    raise ValueError(f"unknown variant {variant!r}; choose {', '.join(VARIANTS)}")

  config = ml_collections.ConfigDict()
  config.seed = 0

  config.data = data = ml_collections.ConfigDict()
  data.name = "digits"
  data.train_size = 1500
  data.test_size = 1500
  data.batch_size = 64

  config.model = model = ml_collections.ConfigDict()
  model.name = "mlp"  # 4 hidden layers of 128 units, with batch norm

  config.loss = loss = ml_collections.ConfigDict()
  loss.name = "cross_entropy"

  config.optim = optim = ml_collections.ConfigDict()
  optim.name = "sgd"
  optim.peak_lr = 0.05
  optim.weight_decay = 5e-3
  optim.total_epochs = 300
  optim.steps_per_call = 100

  config.observe = observe = ml_collections.ConfigDict()
  observe.batch_size = 250
  observe.max_scatter_dim = 4096
  observe.max_rank_dim = 1024

  config.checkpoint = checkpoint = ml_collections.ConfigDict()
  checkpoint.every_epochs = 25
  checkpoint.max_to_keep = 3

  if variant == "squared_error":
    loss.name = "squared_error"
  if variant == "plain":
    model.batch_norm = False
    optim.weight_decay = 5e-4
    optim.total_epochs = 350
  return config
