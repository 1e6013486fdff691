"""Probes: against scikit-learn in float64, over devices, and in known worlds."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from nc_jax.training import probes
from nc_jax.training.probes import front, multinomial

K, D, N, TEST = 6, 24, 400, 300


def world(name, seed=0):
  """train [N, D], labels, test [TEST, D], labels: float32, and hard enough to err on."""
  rng = np.random.default_rng(seed)
  dim, size = (240, 120) if name == "N < D" else (D, N)
  share = np.array([30, 20, 10, 4, 2, 1.0]) if name == "imbalanced" else np.ones(K)
  labels = rng.choice(K, size + TEST, p=share / share.sum())
  noise = rng.normal(size=(len(labels), dim))
  means = rng.normal(size=(K, dim)) * (0.25 if name == "N < D" else 0.5)
  features = means[labels] + noise
  if name == "ill-conditioned":  # features of which all but a few are nearly combinations of those
    mixing = rng.normal(size=(dim, dim)) * np.geomspace(1, 1e-4, dim)[:, None]
    features = features @ mixing
  if name in ("collapsed", "coarse"):  # a thousandth of the distance of the means; two points
    means = rng.normal(size=(2 if name == "coarse" else K, dim))
    features = means[labels % len(means)] + 1e-3 * (features if name == "coarse" else noise)
  if name == "offset":
    features += 300 * rng.normal(size=dim)
  if name == "dead units":
    features = np.maximum(features, 0)
    features[:, ::5], features[:, 1] = 0, 2.7
  if name == "absent":
    labels[:size][labels[:size] == 2] = 3
  features = features.astype(np.float32)
  return features[:size], labels[:size], features[size:], labels[size:]


WORLDS = ["random", "ill-conditioned", "collapsed", "coarse", "offset", "dead units", "N < D"]
WORLDS += ["imbalanced", "absent"]


def scaled(train, test):
  """Both in float64, by the train split."""
  scaler = StandardScaler().fit(train.astype(np.float64))
  return scaler.transform(train.astype(np.float64)), scaler.transform(test.astype(np.float64))


def disagreement(ours, theirs):
  return np.mean(np.asarray(ours) != np.asarray(theirs))


@pytest.fixture(scope="module")
def mesh():
  if jax.device_count() < 4:
    pytest.skip("needs 4 devices: tests/conftest.py asks for them")
  return Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("a", "b"))


@pytest.mark.parametrize("name", ["random", "collapsed", "offset", "dead units"])
def test_standardisation(name):
  train, _, test, _ = world(name)
  standard = probes.standardise(train)
  for ours, theirs in zip((train, test), scaled(train, test), strict=True):
    np.testing.assert_allclose(standard.apply(ours), theirs, rtol=2e-5, atol=2e-5)


def test_what_varies():
  rng = np.random.default_rng(0)
  noise = rng.normal(size=(10_000, 5))
  features = noise * [1e-25, 1e-3, 1, 0, 0] + [0, 1e2, -1e5, 0, 0.1]
  features[:, 4] *= 1 + 1e-7 * (noise[:, 4] > 0)  # the last bit, as another order of sums leaves it
  features = features.astype(np.float32)
  standard = probes.standardise(features)
  np.testing.assert_array_equal(standard.varies, [True, True, True, False, False])
  z = np.asarray(standard.apply(features), np.float64)
  np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-6)
  np.testing.assert_allclose(z.std(axis=0)[:3], 1, rtol=1e-5)
  assert np.abs(z[:, 3:]).max() < 1e-7


@pytest.mark.parametrize("name", WORLDS)
def test_ridge_against_scikit_learn(name):
  train, labels, test, _ = world(name)
  a, b = scaled(train, test)
  penalties = (1e-1, 1e-3, 1e-6, 1e-9)
  for penalty, linear in zip(penalties, probes.ridge(train, labels, K, penalties), strict=True):
    reference = RidgeClassifier(alpha=penalty * len(a), solver="svd").fit(a, labels)
    weight = np.zeros_like(linear.weight)
    weight[reference.classes_] = reference.coef_ / 2  # scikit-learn's targets are -1 and 1
    error = np.abs(linear.weight - weight).max() / np.abs(weight).max()
    assert error <= {1e-1: 2e-5, 1e-3: 2e-4}.get(penalty, 0.1), penalty
    # One example in 300 may lie on a boundary to float32.
    assert disagreement(linear.decide(test), reference.predict(b)) <= 1 / TEST, penalty


def test_ridge_in_chunks():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(3001, 8)).astype(np.float32)  # two chunks of 1,501, one of them short
  labels = rng.integers(3, size=3001)
  features[:, 0] += labels
  (linear,) = probes.ridge(features, labels, 3, (1e-3,))
  reference = RidgeClassifier(alpha=3.001, solver="svd").fit(
    *scaled(features, features)[:1], labels
  )
  np.testing.assert_allclose(linear.weight, reference.coef_ / 2, atol=1e-5)


def test_a_unit_dead_in_training_has_no_weight():
  train, labels, test, _ = world("dead units")
  alive = test.copy()
  alive[:, ::5] = 1e3 * np.random.default_rng(0).random((TEST, 5))
  linears = [*probes.ridge(train, labels, K, (1e-9,)), probes.logistic(train, labels, K, 1e-3)]
  for linear in linears:
    np.testing.assert_array_equal(linear.decide(alive), linear.decide(test))


@pytest.mark.parametrize("name", WORLDS)
def test_logistic_against_scikit_learn(name):
  train, labels, test, _ = world(name)
  a, b = scaled(train, test)
  # scikit-learn itself needs tens of thousands of iterations for a small penalty near collapse.
  for penalty in (1e-1, 1e-3) if name == "coarse" else (1e-1, 1e-3, 1e-5):
    ours = probes.logistic(train, labels, K, penalty)
    assert ours.converged
    reference = LogisticRegression(C=1 / (penalty * len(a)), tol=1e-8, max_iter=20_000)
    reference.fit(a, labels)
    weight = np.asarray(ours.weight, np.float64)[reference.classes_]
    error = np.abs(weight - reference.coef_).max() / np.abs(reference.coef_).max()
    assert error <= {1e-1: 5e-4, 1e-3: 5e-3}.get(penalty, 0.1), penalty
    assert disagreement(ours.decide(test), reference.predict(b)) <= 1 / TEST, penalty


def test_two_classes_against_scikit_learn():
  train, labels, test, _ = world("random")
  labels, (a, b) = labels % 2, scaled(train, test)
  ours = probes.logistic(train, labels, 2, 1e-2)
  theirs = LogisticRegression(C=2 / (1e-2 * N), tol=1e-8).fit(a, labels)
  np.testing.assert_allclose(ours.weight[1] - ours.weight[0], theirs.coef_[0], atol=1e-4)
  np.testing.assert_allclose(ours.bias[1] - ours.bias[0], theirs.intercept_[0], atol=1e-4)
  (linear,) = probes.ridge(train, labels, 2, (1e-3,))
  reference = RidgeClassifier(alpha=1e-3 * N).fit(a, labels)
  assert disagreement(linear.decide(test), reference.predict(b)) == 0


@pytest.mark.parametrize("name", WORLDS)
def test_knn_against_scikit_learn(name):
  train, labels, test, _ = world(name)
  a, b = scaled(train, test)
  for k in (1, 2, 5, 20):
    ours = probes.knn(train, labels, test, K, k)
    theirs = KNeighborsClassifier(k, algorithm="brute").fit(a, labels).predict(b)
    assert disagreement(ours, theirs) <= 1 / TEST, k


def test_ties_between_classes_go_to_the_smallest_label():
  train = np.array([[-1.0], [1.0], [2.0], [-2.0]], np.float32)
  labels = [4, 1, 3, 0]
  assert probes.knn(train, labels, np.zeros((1, 1), np.float32), 5, 2).tolist() == [1]
  assert probes.knn(train, labels, np.zeros((1, 1), np.float32), 5, 4).tolist() == [0]
  # With fewer examples than k, all vote.
  assert probes.knn(train, [2, 2, 1, 1], train, 5, 9).tolist() == [1] * 4


KINDS = {"ridge": (1e-3, 1e-6), "logistic": (1e-3, 0.1), "knn": (1, 5)}


@pytest.mark.parametrize("name", ["random", "absent"])
def test_front_is_all_probes_one_by_one(name):
  train, labels, test, truth = world(name)
  results = probes.probe(train, labels, test, truth, K, **KINDS)
  decisions = [linear.decide(test) for linear in probes.ridge(train, labels, K, KINDS["ridge"])]
  decisions += [probes.logistic(train, labels, K, p).decide(test) for p in KINDS["logistic"]]
  decisions += [probes.knn(train, labels, test, K, k) for k in KINDS["knn"]]
  assert list(results) == [
    "ridge/0.001", "ridge/1e-06", "logistic/0.001", "logistic/0.1", "knn/1", "knn/5",
  ]  # fmt: skip
  for (key, (correct, converged)), decision in zip(results.items(), decisions, strict=True):
    assert converged is True, key
    assert correct.shape == (TEST,) and correct.dtype == bool
    assert disagreement(correct, decision == truth) <= 1 / TEST, key
    assert name != "absent" or not np.any(np.asarray(correct)[truth == 2]), key


def test_the_defaults_and_a_choice():
  arguments = (*world("random"), K)
  assert list(probes.probe(*arguments)) == ["ridge/0.001", "logistic/0.001", "knn/5"]
  assert list(probes.probe(*arguments, ridge=(), logistic=(), knn=(5,))) == ["knn/5"]
  assert probes.probe(*arguments, ridge=(), logistic=(), knn=()) == {}


def padded(features, labels, to, seed):
  """The rows at random places among padding of nan, the mask, and their places."""
  places = np.sort(np.random.default_rng(seed).permutation(to)[: len(features)])
  more = np.full((to, features.shape[1]), np.nan, np.float32)
  other, mask = np.full(to, -7), np.zeros(to, bool)
  more[places], other[places], mask[places] = features, labels, True
  return more, other, mask, places


def test_padding_changes_nothing():
  train, labels, test, truth = world("random")
  plain = probes.probe(train, labels, test, truth, K, **KINDS)
  train, labels, train_mask, _ = padded(train, labels, N + 44, 1)
  test, truth, test_mask, places = padded(test, truth, TEST + 20, 2)
  masked = probes.probe(
    train, labels, test, truth, K, **KINDS, train_mask=train_mask, test_mask=test_mask
  )
  for key, probed in masked.items():
    correct = np.asarray(probed.correct)
    assert disagreement(correct[places], plain[key].correct) <= 1 / TEST, key
    assert not correct[~test_mask].any()


@pytest.mark.parametrize(
  "name, axes",
  [("random", ("a", "b")), ("collapsed", ("a", "b")), ("random", "b")],
  ids=str,
)
def test_several_devices_equal_one(mesh, name, axes):
  train, labels, test, truth = world(name)
  single = probes.probe(train, labels, test, truth, K, **KINDS)
  train, labels, train_mask, _ = padded(train, labels, len(train) + 44, 1)
  test, truth, test_mask, places = padded(test, truth, TEST + 20, 2)
  rows = NamedSharding(mesh, PartitionSpec(axes))
  several = probes.probe(
    jax.device_put(train, rows),
    labels,
    test,
    truth,
    K,
    **KINDS,
    train_mask=jax.device_put(train_mask, rows),
    test_mask=test_mask,
  )
  for key, probed in several.items():
    assert disagreement(np.asarray(probed.correct)[places], single[key].correct) <= 1 / TEST, key


def test_single_probes_of_spread_features(mesh):
  train, labels, test, _ = world("random")
  spread = jax.device_put(train, NamedSharding(mesh, PartitionSpec("a")))
  for one, two in zip(
    [*probes.ridge(train, labels, K, (1e-3,)), probes.logistic(train, labels, K, 1e-3)],
    [*probes.ridge(spread, labels, K, (1e-3,)), probes.logistic(spread, labels, K, 1e-3)],
    strict=True,
  ):
    assert two.converged
    np.testing.assert_allclose(two.weight, one.weight, atol=2e-4)
    np.testing.assert_allclose(two.bias, one.bias, atol=2e-4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    probes.standardise(train),
    probes.standardise(spread),
  )
  decisions = [probes.knn(x, labels, test, K, 5) for x in (train, spread)]
  assert disagreement(*decisions) == 0


def test_ridge_of_fewer_examples_a_device_than_features(mesh):
  train, labels, test, _ = world("N < D")
  spread = jax.device_put(train, NamedSharding(mesh, PartitionSpec(("a", "b"))))
  # Nearly without a penalty float32 leaves 1e-4 of the weights open, more or less by processor.
  known_to = {1e-3: 1e-5, 1e-9: 5e-4}
  singles, several = (probes.ridge(x, labels, K, tuple(known_to)) for x in (train, spread))
  for one, two, rounding in zip(singles, several, known_to.values(), strict=True):
    atol = rounding * np.abs(one.weight).max()
    np.testing.assert_allclose(two.weight, one.weight, atol=atol)
    assert disagreement(one.decide(test), two.decide(test)) <= 1 / TEST


def test_ceiling():
  fine = np.repeat(np.arange(10), 6)
  assert probes.ceiling(fine // 5, fine, fine // 5, fine).mean() == pytest.approx(0.2)
  assert probes.ceiling(fine, fine // 5, fine, fine // 5).all()
  # The train set says which class to name: 0 at point 0, 1 at point 1.
  train = [0, 0, 0, 1, 1], [0, 0, 1, 1, 1]
  right = probes.ceiling(*train, [0, 0, 1, 1], [0, 1, 1, 0])
  assert right.tolist() == [True, False, True, False]
  with pytest.raises(ValueError, match=r"test_coarse and test_fine must have one shape \[N\]"):
    probes.ceiling(*train, [0, 1], [0])


def test_collapsed_features_reach_the_ceiling_and_no_probe_more():
  share = np.array([5, 4, 3, 3, 2, 1]) / 18
  rng = np.random.default_rng(0)
  fine = rng.choice(K, N + TEST, p=share)
  coarse = (fine >= 3).astype(int)
  features = rng.normal(size=(2, D)).astype(np.float32)[coarse]
  results = probes.probe(features[:N], fine[:N], features[N:], fine[N:], K, **KINDS)
  ceiling = probes.ceiling(coarse[:N], fine[:N], coarse[N:], fine[N:]).mean()
  assert 0.35 < ceiling < 0.5
  for key, (correct, _) in results.items():
    if key.startswith("knn"):  # the nearest of equals are any
      assert np.mean(correct) <= ceiling, key
    else:
      assert np.mean(correct) == pytest.approx(ceiling), key


def test_known_worlds():
  train, labels, test, truth = world("collapsed")
  for key, (correct, _) in probes.probe(train, labels, test, truth, K, **KINDS).items():
    assert np.all(correct), key
  rng = np.random.default_rng(0)
  labels, truth = rng.integers(K, size=N), rng.integers(K, size=TEST)
  for key, (correct, _) in probes.probe(train, labels, test, truth, K, **KINDS).items():
    assert abs(np.mean(correct) - 1 / K) < 4 * np.sqrt((1 / K) * (1 - 1 / K) / TEST), key


def test_labels_and_parameters_compile_nothing_new():
  train, labels, test, truth = world("random")
  probes.probe(train, labels, test, truth, K, **KINDS)
  programs = front._probe._cache_size()
  others = {"ridge": (1e-2, 0.1), "logistic": (0.2, 1e-2), "knn": (7, 3)}
  probes.probe(train, labels[::-1], test, truth, K, **others, train_mask=labels > 0)
  assert front._probe._cache_size() == programs


def test_no_convergence_is_told(monkeypatch):
  monkeypatch.setattr(multinomial, "ITERATIONS", 3)
  train, labels, test, truth = world("random")
  arguments = (train[1:], labels[1:], test, truth, K)  # a shape that was not compiled before
  results = probes.probe(*arguments, logistic=(1e-5, 100.0))
  assert {key: probed.converged for key, probed in results.items()} == {
    "ridge/0.001": True, "logistic/1e-05": False, "logistic/100": True, "knn/5": True,
  }  # fmt: skip


@pytest.mark.parametrize(
  "change, match",
  [
    ({"train_labels": np.full(N, K)}, "labels must lie in"),
    ({"test_features": np.zeros((TEST, D + 1))}, rf"test_features must have .*\[N, {D}\]; got"),
    ({"train_mask": np.ones(3, bool)}, "mask must have shape"),
    ({"ridge": (0.0,)}, r"ridge must hold numbers above 0; got \(0.0,\)"),
    ({"knn": (0,)}, "knn must hold numbers above 0"),
  ],
  ids=lambda x: x if isinstance(x, str) else next(iter(x)),
)
def test_errors(change, match):
  names = ("train_features", "train_labels", "test_features", "test_labels")
  arguments = dict(zip(names, world("random"), strict=True)) | {"num_classes": K} | change
  with pytest.raises(ValueError, match=match):
    probes.probe(**arguments)


def test_rows_that_do_not_divide_over_the_devices(mesh):
  train, labels, test, truth = world("random")
  spread = jax.device_put(train, NamedSharding(mesh, PartitionSpec(("a", "b"))))
  with pytest.raises(ValueError, match="rows divisible by 4, .* got 299: pad them"):
    probes.probe(spread, labels, test[1:], truth[1:], K)
