"""The trainer: data, models, losses and optimiser, joined by `loop` and watched by `observe`."""
