"""The paper's grid: data sets x networks x losses, by the protocol of the field.

  python -m nc_jax.main --config=configs/paper.py --workdir=runs/paper --config.data.dir=DIR

SGD, momentum 0.9, weight decay 5e-4 on everything, batch 128, 350 epochs, rate x 0.1 after 1/3 and
2/3, no augmentation, train sets cut to equal class sizes (Papyan, Han & Donoho 2020, arXiv
2008.08186). DIR is a TFDS data folder in array_record format (`python -m nc_jax.prepare NAME`).

Learning rates: 0.0679 for ResNet-18 with cross-entropy and 0.0184 with squared error are
published tuned values for CIFAR-10. For everything else no tuned value is known to us: the same two
are used; tune them with `python -m nc_jax.sweep`, as the field does on 25 values in [1e-4, 0.25].

For an accelerator. We ran ResNet-18 on CIFAR-10, once for all 350 epochs (README): one seed of E3a
with model.precision=bfloat16 took 9 minutes on an H200. To expect elsewhere, by count: hours of one
run on a device that does 10 TFLOP/s; measure yours by `python -m nc_jax.benchmark train
--config=configs/paper.py:VARIANT`. Observations come on top.

              GFLOP a train image   hours: MNIST  Fashion  CIFAR-10, -100  SVHN  STL-10
  resnet18            3.33                  1.4      1.6        1.6         1.5    0.2
  vgg11               0.92                  0.5      0.5        0.4         0.4    0.1
  vgg13               1.37                  0.7      0.8        0.7         0.6    0.1
  densenet40          1.59                  0.6      0.7        0.8         0.7    0.1

Variants: DATASET,NETWORK,LOSS
  datasets   mnist fashion_mnist cifar10 cifar100 svhn_cropped stl10
  networks   resnet18 vgg11 vgg13 densenet40
  losses     cross_entropy squared_error
"""

from configs import digits

DATASETS = ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn_cropped", "stl10")
NETWORKS = ("resnet18", "vgg11", "vgg13", "densenet40")
LOSSES = ("cross_entropy", "squared_error")
PEAK_LR = {"cross_entropy": 0.0679, "squared_error": 0.0184}


def get_config(variant: str = "cifar10,resnet18,cross_entropy"):
  dataset, network, loss = _choices(variant)
  config = digits.get_config()
  config.data.name = dataset
  config.data.train_size = None  # all
  config.data.test_size = None
  config.data.balance = True
  config.data.batch_size = 128
  if dataset == "stl10":
    config.data.image_size = 32  # 96 pixels are nine times the work
  elif dataset.endswith("mnist") and network.startswith("vgg"):
    config.data.image_size = 32  # its five halvings leave nothing of 28 pixels

  config.model.name = network

  config.loss.name = loss

  config.optim.peak_lr = PEAK_LR[loss]
  config.optim.weight_decay = 5e-4
  config.optim.total_epochs = 350

  config.observe.batch_size = 500
  return config


def _choices(variant: str) -> tuple[str, str, str]:
  chosen = tuple(variant.split(","))
  known = (DATASETS, NETWORKS, LOSSES)
  if len(chosen) != 3:
    raise ValueError(f"variant {variant!r} must be DATASET,NETWORK,LOSS")
  for choice, names in zip(chosen, known, strict=True):
    if choice not in names:
      raise ValueError(f"unknown {choice!r} in {variant!r}; choose {', '.join(names)}")
  return chosen
