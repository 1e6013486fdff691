"""ResNet-18 on CIFAR-10 by the protocol of the field: Papyan, Han & Donoho 2020, arXiv 2008.08186.

  python -m nc_jax.main --config=configs/cifar10.py --workdir=runs/cifar10 --config.data.dir=DIR

DIR is a TFDS data folder that holds cifar10 in array_record format; `python -m nc_jax.prepare
cifar10 --data_dir=DIR` makes one. The full recipe is for an accelerator; we ran short schedules
of it (README). Expect of the narrow one: train and test error 0 and 0.66, V(train) 0.006 and
V(test) 3.1.

Variants (`--config=configs/cifar10.py:narrow`):
  paper    all 50,000 images, ResNet-18, 350 epochs
  narrow   1,000 images, squared error and 12 channels: minutes on two CPU cores
"""

from configs import digits

VARIANTS = ("paper", "narrow")


def get_config(variant: str = "paper"):
  if variant not in VARIANTS:
    raise ValueError(f"unknown variant {variant!r}; choose {', '.join(VARIANTS)}")
  config = digits.get_config()
  config.data.name = "cifar10"
  config.data.train_size = None  # all 50,000
  config.data.test_size = None  # all 10,000
  config.data.batch_size = 128

  config.model.name = "resnet18"

  config.optim.peak_lr = 0.0679  # as tuned in the literature for ResNet-18 and cross-entropy
  config.optim.weight_decay = 5e-4
  config.optim.total_epochs = 350

  config.observe.batch_size = 500

  if variant == "narrow":
    config.data.train_size = 1000
    config.data.test_size = 1000
    config.data.batch_size = 32
    config.model.width = 12
    config.loss.name = "squared_error"
    config.optim.peak_lr = 0.05
    config.optim.weight_decay = 5e-3
    config.optim.total_epochs = 90
    config.optim.steps_per_call = 31
    config.observe.epochs = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 60, 70, 80)
    config.checkpoint.every_epochs = 10
  return config
