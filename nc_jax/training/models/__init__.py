"""Networks by name. Each maps images [B, H, W, C] to (logits [B, K], {layer: features [B, D]}).

The taps are ordered, input side first, and the last is `penultimate`: the input of the final
linear layer, which is a submodule named `head`.
"""

from nc_jax.training.models.mlp import MLP

MODELS = {"mlp": MLP}

PENULTIMATE = "penultimate"
# The network's own output. Not a tap: its rows are the loss and the error of the whole network.
LOGITS = "logits"
