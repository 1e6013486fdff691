import numpy as np
import pytest

from nc_jax.errors import UserError
from nc_jax.training.data.label_maps import TABLES, coarse_map

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()

# The fine -> coarse table that goes with CIFAR-100's binary files; fine classes in alphabetical
# order. Independent of the names in TABLES.
CIFAR100 = [
  4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
  6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
  16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
  12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
]  # fmt: skip


def test_the_superclasses_of_cifar100_are_the_published_twenty_of_five():
  table = TABLES["superclasses"]
  fine = sorted(name for names in table.values() for name in names.split())
  assert len(table) == 20 and len(set(fine)) == 100
  assert all(len(names.split()) == 5 for names in table.values())
  coarse, names = coarse_map(("superclasses",), tuple(fine))
  np.testing.assert_array_equal(coarse, CIFAR100)
  assert names == tuple(sorted(table))


def test_animals_and_vehicles():
  coarse, names = coarse_map(("animals_vehicles",), tuple(CIFAR10))
  assert names == ("animal", "vehicle")
  np.testing.assert_array_equal(coarse, [1, 1, 0, 0, 0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize(
  "label_map, coarse, names",
  [
    (("parity",), [0, 1, 0, 1, 0, 1], ("even", "odd")),
    (("halves",), [0, 0, 0, 1, 1, 1], ("first_half", "second_half")),
    (("groups_of_2",), [0, 0, 1, 1, 2, 2], ("a..b", "c..d", "e..f")),
    (("groups_of_3",), [0, 0, 0, 1, 1, 1], ("a..c", "d..f")),
    ((1, 0, 2, 0, 1, 2), [1, 0, 2, 0, 1, 2], ("b+d", "a+e", "c+f")),
    (("y", "x", "y", "x", "x", "z"), [1, 0, 1, 0, 0, 2], ("x", "y", "z")),
  ],
)
def test_other_maps(label_map, coarse, names):
  got, got_names = coarse_map(label_map, tuple("abcdef"))
  np.testing.assert_array_equal(got, coarse)
  assert got_names == names and got.dtype == np.int32


def test_an_odd_number_of_classes_has_the_larger_half_first():
  np.testing.assert_array_equal(coarse_map(("halves",), tuple("abcde"))[0], [0, 0, 0, 1, 1])


@pytest.mark.parametrize(
  "label_map, line",
  [
    ((0, 1, 0, 1), r"has 4 entries: it misses class 4 \(e\)"),
    ((0, 1, 0, 1, 0, 1, 0), "nor 6 entries, one per class"),
    ((0, 2, 0, 2, 0, 2), "must use the labels 0, ..., 1, each at least once"),
    ((0, 1, 0, 1, 0, "x"), "must hold whole numbers or names"),
    (("groups_of_4",), "does not divide 6 classes"),
    (("superclass",), "is neither one of animals_vehicles, superclasses, parity"),
    (("animals_vehicles",), r"misses class 0 \(a\)"),
  ],
)
def test_maps_that_miss_a_class_are_refused(label_map, line):
  with pytest.raises(UserError, match=r"config.data.label_map = \(.*" + line):
    coarse_map(label_map, tuple("abcdef"))
