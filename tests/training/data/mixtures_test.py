import numpy as np
import pytest

from nc_jax.errors import UserError
from nc_jax.training.data.mixtures import bayes_error, class_means, gaussian_mixture


def distances(means):
  return np.linalg.norm(means[:, None] - means, axis=-1)


def test_plain_means_are_centred_and_equally_far_apart():
  means = class_means(0, classes=7, dim=6, separation=3.0)
  np.testing.assert_allclose(means.sum(0), 0, atol=1e-12)
  np.testing.assert_allclose(distances(means)[~np.eye(7, dtype=bool)], 3, rtol=1e-12)


def test_two_levels_have_the_distances_and_norms_of_the_docstring():
  means = class_means(1, 6, dim=9, separation=2.0, super_classes=2, super_separation=10.0)
  group = np.arange(6) // 3
  same, other = group[:, None] == group, ~np.eye(6, dtype=bool)
  np.testing.assert_allclose(distances(means)[same & other], 2, rtol=1e-12)
  np.testing.assert_allclose(distances(means)[~same], np.sqrt(100 + 4 * 2 / 3), rtol=1e-12)
  np.testing.assert_allclose((means**2).sum(1), 100 / 4 + 4 * 2 / 6, rtol=1e-12)
  tops = means.reshape(2, 3, -1).mean(1)
  np.testing.assert_allclose(np.linalg.norm(tops[0] - tops[1]), 10, rtol=1e-12)


def test_groups_of_one_class_are_the_plain_case():
  alone = class_means(3, 5, dim=8, separation=1.0, super_classes=5, super_separation=4.0)
  np.testing.assert_allclose(alone, class_means(3, 5, dim=8, separation=4.0), atol=1e-12)


def test_examples_have_the_true_means_and_unit_deviation():
  options = {"classes": 4, "dim": 5, "separation": 6.0}
  mixture = gaussian_mixture(seed=2, train_size=20000, test_size=50, **options)
  images, labels = mixture.train.images, mixture.train.labels
  assert images.shape == (20000, 1, 1, 5) and images.dtype == np.float32
  x = images[:, 0, 0] * mixture.scale + mixture.shift
  np.testing.assert_array_equal(np.bincount(labels), 5000)
  means = class_means(2, **options)
  centred = x - means[labels]
  # Standard errors: 1 / sqrt(5000) = 0.014 for a mean, about 0.01 for a variance.
  for k in range(4):
    np.testing.assert_allclose(centred[labels == k].mean(0), 0, atol=0.06)
  np.testing.assert_allclose(np.cov(centred.T), np.eye(5), atol=0.05)
  ratio = 5 / (means**2).sum(1).mean()  # tr(Σ_W) / tr(Σ_B)
  assert ratio == pytest.approx(5 * 2 * 4 / (6**2 * 3))


def test_the_bayes_error_of_two_classes_is_that_of_the_nearer_mean():
  mixture = gaussian_mixture(seed=0, train_size=40000, classes=2, dim=3, separation=2.0)
  means = class_means(0, 2, 3, 2.0)
  x = mixture.train.images[:, 0, 0]
  nearer = ((x[:, None] - means) ** 2).sum(-1).argmin(1)
  error = np.mean(nearer != mixture.train.labels)
  assert bayes_error(2.0) == pytest.approx(0.158655, abs=1e-6)  # the tail of a normal beyond 1
  assert error == pytest.approx(bayes_error(2.0), abs=0.008)  # four standard errors


@pytest.mark.parametrize(
  "options, line",
  [
    ({"classes": 1}, "config.data.classes = 1"),
    ({"super_classes": 3}, "config.data.super_classes = 3 does not divide the 10 classes"),
    ({"dim": 8}, "config.data.dim = 8: .* 10 classes need 9"),
  ],
)
def test_impossible_mixtures_are_refused(options, line):
  with pytest.raises(UserError, match=line):
    gaussian_mixture(seed=0, **options)


def test_the_hierarchy_is_in_the_order_and_the_names_of_the_classes():
  mixture = gaussian_mixture(seed=0, classes=6, super_classes=2)
  assert mixture.class_names[2:4] == ("group0_class2", "group1_class0")
