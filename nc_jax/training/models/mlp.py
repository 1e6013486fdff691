"""The multi-layer perceptron of the embedded default."""

import flax.linen as nn
import jax


class MLP(nn.Module):
  """`depth` hidden layers (linear, batch norm, ReLU) and a linear head. He initialisation.

  Tapped are the outputs of the hidden layers: `layer1`, `layer2`, ... and, for the last,
  `penultimate`, each [B, width].

  He et al. 2015, arXiv 1502.01852; Ioffe & Szegedy 2015, arXiv 1502.03167.
  """

  num_classes: int
  width: int
  depth: int
  batch_norm: bool = True
  axis_name: str | None = None  # the device axis over which batch statistics are averaged

  @nn.compact
  def __call__(self, images: jax.Array, train: bool):
    x = images.reshape(len(images), -1)
    taps = {}
    for layer in range(1, self.depth + 1):
      x = nn.Dense(self.width, kernel_init=nn.initializers.he_normal(), name=f"linear{layer}")(x)
      if self.batch_norm:
        x = nn.BatchNorm(
          use_running_average=not train,
          momentum=0.9,
          epsilon=1e-5,
          axis_name=self.axis_name if train else None,
          use_fast_variance=False,  # E[x²] - E[x]² cancels where features collapse
          name=f"norm{layer}",
        )(x)
      x = nn.relu(x)
      taps["penultimate" if layer == self.depth else f"layer{layer}"] = x
    head = nn.Dense(self.num_classes, kernel_init=nn.initializers.he_normal(), name="head")
    return head(x), taps
