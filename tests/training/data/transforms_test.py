import numpy as np
import pytest

from nc_jax.errors import UserError
from nc_jax.training.data import transforms
from nc_jax.training.data.sets import Dataset, Split
from nc_jax.training.data.transforms import Changes, class_sizes, corrupt, transform

SIZES = (40, 60, 50, 30)  # train examples of the four classes; of test half as many


def dataset():
  rng = np.random.default_rng(7)
  splits = []
  for part in (1, 2):
    labels = rng.permutation(np.repeat(np.arange(4), np.array(SIZES) // part)).astype(np.int32)
    # An image is its own label and place, so that nothing can be mixed up unseen.
    images = np.stack([labels, np.arange(len(labels))], -1).astype(np.uint8)[:, None, None]
    splits.append(Split(images, labels))
  return Dataset(*splits, tuple("abcd"))


def changed(seed=0, **changes):
  return transform(dataset(), Changes(**changes), seed)


def test_without_changes_nothing_is_changed_or_copied():
  before = dataset()
  after = transform(before, Changes(), 0)
  assert after.train.images is before.train.images and after.train.labels is before.train.labels
  assert after.train.clean is after.train.labels and after.train.fine is after.train.labels
  np.testing.assert_array_equal(after.train.ids, np.arange(180))


def test_a_balanced_subset_is_balanced_in_order_and_knows_where_it_came_from():
  small = changed(train_size=102, test_size=8)
  assert sorted(np.bincount(small.train.labels)) == [25, 25, 26, 26]
  np.testing.assert_array_equal(np.bincount(small.test.labels), 2)
  for split, whole in ((small.train, dataset().train), (small.test, dataset().test)):
    assert (np.diff(split.ids) > 0).all()
    np.testing.assert_array_equal(split.images, whole.images[split.ids])
    np.testing.assert_array_equal(split.labels, whole.labels[split.ids])
  other = changed(seed=1, train_size=102)
  assert set(other.train.ids) != set(small.train.ids)
  np.testing.assert_array_equal(changed(train_size=102).train.ids, small.train.ids)


def test_balance_cuts_to_the_smallest_class_and_leaves_test_alone():
  cut = changed(balance=True)
  np.testing.assert_array_equal(np.bincount(cut.train.labels), 30)
  assert len(cut.test) == len(dataset().test)


@pytest.mark.parametrize("ratio, sizes", [(10, [100, 46, 22, 10]), (1, [100, 100, 100, 100])])
def test_exponential_imbalance(ratio, sizes):
  # 100 R^(-k/3): for R = 10 100, 46.4, 21.5, 10.
  np.testing.assert_array_equal(class_sizes("exponential", ratio, 4, 100), sizes)


def test_step_imbalance():
  np.testing.assert_array_equal(class_sizes("step", 20, 5, 100), [100, 100, 100, 5, 5])


def test_imbalance_is_of_the_train_set_and_after_its_size():
  uneven = changed(imbalance="exponential", imbalance_ratio=30.0)
  np.testing.assert_array_equal(np.bincount(uneven.train.labels), [30, 10, 3, 1])
  assert len(uneven.test) == len(dataset().test)
  smaller = changed(imbalance="step", imbalance_ratio=4.0, train_size=80)
  np.testing.assert_array_equal(np.bincount(smaller.train.labels), [20, 20, 5, 5])


@pytest.mark.parametrize("rate, wrong", [(0.1, 100), (0.333, 333), (0.99, 990)])
def test_symmetric_noise_is_exact_in_number_and_uniform_over_the_other_classes(rate, wrong):
  labels = np.zeros(1000, np.int32)
  given = corrupt(labels, "symmetric", rate, 5, seed=0)
  assert (given != labels).sum() == wrong and given.dtype == np.int32
  counts = np.bincount(given, minlength=5)[1:]
  # Multinomial, four equal chances: four standard deviations.
  assert np.abs(counts - wrong / 4).max() < 4 * np.sqrt(wrong * 3 / 16)


def test_pairwise_noise_goes_to_the_next_class():
  labels = np.arange(1000, dtype=np.int32) % 5
  given = corrupt(labels, "pairwise", 0.4, 5, seed=0)
  moved = given != labels
  assert moved.sum() == 400
  np.testing.assert_array_equal(given[moved], (labels[moved] + 1) % 5)
  np.testing.assert_array_equal(given, corrupt(labels, "pairwise", 0.4, 5, seed=0))
  assert (given != corrupt(labels, "pairwise", 0.4, 5, seed=1)).any()


def test_noise_keeps_the_clean_labels_and_the_test_set():
  noisy = changed(noise_rate=0.25)
  assert (noisy.train.labels != noisy.train.clean).sum() == 45
  np.testing.assert_array_equal(noisy.train.clean, dataset().train.labels)
  np.testing.assert_array_equal(noisy.test.labels, dataset().test.labels)
  record = noisy.record()
  wrong = record["train_ids"][record["train_labels"] != record["train_clean"]]
  assert len(wrong) == 45 and (dataset().train.labels[wrong] != record["train_labels"][wrong]).all()
  np.testing.assert_array_equal(record["test_fine"], dataset().test.labels)


def test_a_coarse_map_keeps_the_fine_labels():
  coarse = changed(label_map=("halves",))
  assert coarse.class_names == ("first_half", "second_half") and coarse.num_classes == 2
  assert coarse.fine_names == tuple("abcd")
  for split in (coarse.train, coarse.test):
    np.testing.assert_array_equal(split.labels, split.fine // 2)
    np.testing.assert_array_equal(split.fine, split.images[:, 0, 0, 0])


@pytest.mark.parametrize("classes", [("b", "d"), (1, 3), (3, "b")])
def test_held_out_classes_leave_both_splits_and_the_rest_is_numbered_anew(classes):
  kept = changed(held_out=classes)
  assert kept.class_names == ("a", "c") and kept.held_out.class_names == ("b", "d")
  for part, old in ((kept, (0, 2)), (kept.held_out, (1, 3))):
    for split, whole in ((part.train, dataset().train), (part.test, dataset().test)):
      original = split.images[:, 0, 0, 0]
      assert set(original) == set(old) and set(split.labels) == {0, 1}
      np.testing.assert_array_equal(np.array(old)[split.labels], original)
      np.testing.assert_array_equal(split.images, whole.images[split.ids])
      assert split.clean is split.labels and split.fine is split.labels


def test_all_changes_in_their_order():
  """Held out b; 30 of each other class; 15, 15, 3; merged to 30 and 3; a third corrupted."""
  final = changed(
    held_out=("b",), balance=True, train_size=45, imbalance="step", imbalance_ratio=5.0,
    label_map=("x", "x", "y"), noise_rate=1 / 3, noise_kind="pairwise",
  )  # fmt: skip
  np.testing.assert_array_equal(np.bincount(final.train.fine), [15, 15, 3])
  np.testing.assert_array_equal(np.bincount(final.train.clean), [30, 3])
  assert (final.train.labels != final.train.clean).sum() == 11
  assert final.fine_names == ("a", "c", "d") and final.class_names == ("x", "y")
  np.testing.assert_array_equal(final.train.images, dataset().train.images[final.train.ids])
  assert final.held_out.num_classes == 1


@pytest.mark.parametrize(
  "changes, line",
  [
    ({"train_size": 121}, "config.data.train_size = 121: .* at most 120 examples"),
    ({"test_size": 61}, "config.data.test_size = 61"),
    ({"train_size": 3}, r"config.data: class 3 \(d\) has no train example"),
    ({"noise_rate": 1.0}, r"config.data.noise_rate = 1.0, but must be in \[0, 1\)"),
    ({"noise_rate": -0.1}, "config.data.noise_rate"),
    ({"noise_rate": 0.1, "noise_kind": "pair"}, "config.data.noise_kind = 'pair'"),
    ({"imbalance": "step"}, "config.data.imbalance_ratio = None, but config.data.imbalance ="),
    ({"imbalance_ratio": 9.0}, "config.data.imbalance = None, but config.data.imbalance_ratio ="),
    ({"imbalance": "steps", "imbalance_ratio": 2.0}, "'steps', but must be step or exponential"),
    ({"imbalance": "step", "imbalance_ratio": 0.5}, "config.data.imbalance_ratio = 0.5"),
    ({"imbalance": "step", "imbalance_ratio": 100.0}, "leaves the smallest class empty"),
    ({"held_out": ("e",)}, r"config.data.held_out = \('e',\): there is no class 'e'"),
    ({"held_out": (4,)}, "there is no class 4"),
    ({"held_out": (0, 1, 2)}, "leaves fewer than two classes"),
    ({"label_map": (0, 0, 0, 0)}, "leaves one class"),
    ({"label_map": (0, 1, 1)}, r"misses class 3 \(d\)"),
  ],
)
def test_what_the_classes_do_not_allow_is_refused(changes, line):
  with pytest.raises(UserError, match=line):
    changed(**changes)


def test_the_smallest_class_bounds_a_balanced_subset():
  labels = np.repeat([0, 1, 2], [5, 7, 9])
  chosen = transforms.balanced(labels, 3, 14, np.random.default_rng(0), "key")
  assert sorted(np.bincount(labels[chosen])) == [4, 5, 5] and len(set(chosen)) == 14
