"""Coarse labels: which classes become one."""

import re

import numpy as np

from nc_jax.errors import UserError

# Super-class: the names of its classes.
TABLES = {
  # CIFAR-10, and STL-10 which has nearly the same classes.
  "animals_vehicles": {
    "animal": "bird cat deer dog frog horse monkey",
    "vehicle": "airplane automobile car ship truck",
  },
  # CIFAR-100's own twenty (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny
  # Images", 2009); in alphabetical order, as its coarse labels are numbered.
  "superclasses": {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
  },
}


def coarse_map(
  label_map: tuple[int, ...] | tuple[str, ...], class_names: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
  """(the coarse label int32 [K] of each class, the names of the coarse classes).

  Args:
    label_map: one name, or an entry per class. The names:
      animals_vehicles, superclasses: by the names of the classes (CIFAR-10, CIFAR-100).
      parity: even against odd labels.
      halves: the first ceil(K / 2) classes against the others.
      groups_of_N: N consecutive classes each, one level of a hierarchy; N divides K.
      Entries are coarse labels 0, 1, ..., or names, which are numbered in sorted order.

  Raises UserError for a map that misses a class or leaves a coarse label out.
  """
  size = len(class_names)
  refuse = lambda why: UserError(f"config.data.label_map = {label_map!r:.100} {why}.")
  alone = str(label_map[0]) if len(label_map) == 1 else ""
  group = re.fullmatch(r"groups_of_([0-9]{1,9})", alone)
  if len(label_map) == 1 and label_map[0] in TABLES:
    table = TABLES[label_map[0]]
    of = {name: coarse for coarse, names in table.items() for name in names.split()}
    missed = [name for name in class_names if name not in of]
    if missed:
      raise refuse(f"misses class {class_names.index(missed[0])} ({missed[0]})")
    return _by_name([of[name] for name in class_names])
  if label_map == ("parity",):
    return np.arange(size, dtype=np.int32) % 2, ("even", "odd")
  if label_map == ("halves",):
    return (np.arange(size) >= (size + 1) // 2).astype(np.int32), ("first_half", "second_half")
  if group:
    members = int(group[1])
    if not members or size % members:
      raise refuse(f"does not divide {size} classes")
    names = [class_names[i : i + members] for i in range(0, size, members)]
    merged = tuple(group[0] if members == 1 else f"{group[0]}..{group[-1]}" for group in names)
    return np.arange(size, dtype=np.int32) // members, merged
  if 1 < len(label_map) < size:
    missed = len(label_map)
    raise refuse(f"has {missed} entries: it misses class {missed} ({class_names[missed]})")
  if len(label_map) != size:
    known = ", ".join((*TABLES, "parity", "halves", "groups_of_N"))
    raise refuse(f"is neither one of {known} nor {size} entries, one per class")
  if all(isinstance(entry, str) for entry in label_map):
    return _by_name(label_map)
  if not all(isinstance(entry, int) and not isinstance(entry, bool) for entry in label_map):
    raise refuse("must hold whole numbers or names")
  used = set(label_map)
  if used != set(range(len(used))):
    raise refuse(f"must use the labels 0, ..., {len(used) - 1}, each at least once")
  coarse = np.array(label_map, np.int32)
  members = [np.flatnonzero(coarse == label) for label in range(len(used))]
  return coarse, tuple("+".join(class_names[k] for k in group) for group in members)


def _by_name(names) -> tuple[np.ndarray, tuple[str, ...]]:
  known, coarse = np.unique(names, return_inverse=True)
  return coarse.astype(np.int32), tuple(map(str, known))
