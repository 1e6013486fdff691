"""The digits of the stand-in as they were measured, and what else E3 reads."""

EPOCHS = (0, 1, 5, 10, 30, 100, 150, 300)
V_TRAIN = (407, 19, 4.0, 2.2, 0.38, 0.25, 0.020, 0.007)
V_TEST = (389, 30, 6.1, 3.3, 0.86, 0.70, 0.33, 0.28)
ACCURACY = (0.50, 0.78, 0.89, 0.89, 0.88, 0.88, 0.92, 0.93)
LAYERS = ("layer1", "layer2", "layer3", "penultimate")
FIRST_LAYER = (0.80, 0.81, 0.82, 0.83, 0.84, 0.84, 0.85, 0.85)  # of E3b: it improves


def at(values):
  return dict(zip(EPOCHS, values, strict=True)).__getitem__


def between(low, high, share):
  """Curves of the layers between two: a share of the way from one to the other."""
  return [a + share * (b - a) for a, b in zip(low, high, strict=True)]


def curves(target, last, first=FIRST_LAYER, test=V_TEST, accuracy=ACCURACY, others=()):
  """What E3 reads of one seed; `last` and `first` are the probe on the last and first layer."""
  found = {
    ("train", "penultimate", "nc1/trace_ratio"): at(V_TRAIN),
    ("test", "penultimate", "nc1/trace_ratio"): at(test),
    ("test", "logits", "error/classifier"): at([1 - a for a in accuracy]),
  }
  for share, layer in enumerate(LAYERS):
    probe = at(between(first, last, share / 3))
    found |= {("test", layer, f"probe/{target}/ridge/0.001"): probe}
  # Layers stand in the order in which rows name them.
  order = {layer: depth for depth, layer in enumerate((*LAYERS, "logits"))}
  found |= dict(others)
  return dict(sorted(found.items(), key=lambda item: order[item[0][1]]))


def shifted(values, by):
  return [value + by for value in values]
