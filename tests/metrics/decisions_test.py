"""NC4: decisions of the nearest class mean and of the head, against distances one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import worlds

import nc_jax as nc
from nc_jax.metrics import candidates, certainty, near_ties, pairwise, sharding

K, D, N = worlds.K, worlds.D, worlds.N


def of(world, **options):
  return nc.ClassMoments.of(*world[:2], K, **options)


def test_sums_against_the_oracle():
  world = worlds.clusters(std=2.0, missing=(4,))
  moments, head = of(world), nc.Head(world.weight, world.bias + 2 * np.eye(K)[4])
  decisions = nc.decide(*world[:2], moments, head)

  features = world.features.astype(np.float64)
  count, mean, _, _ = oracle.class_moments(features, world.labels, K)
  nearest = oracle.nearest_class(features, mean, count)
  choice = (features @ world.weight.T.astype(np.float64) + head.bias).argmax(1)
  assert (nearest != world.labels).any() and (choice == 4).any()  # empty classes may be chosen
  assert decisions.count == decisions.placed == N
  assert decisions.ncc_wrong == (nearest != world.labels).sum()
  assert decisions.classifier_wrong == (choice != world.labels).sum()
  assert decisions.mismatch == (choice != nearest).sum()
  own = ((features - mean[world.labels]) ** 2).sum()
  best = ((features - mean[nearest]) ** 2).sum()
  np.testing.assert_allclose(decisions.own_distance, own, rtol=1e-6)
  np.testing.assert_allclose(decisions.nearest_distance, best, rtol=1e-6)
  norm = np.linalg.norm(features, axis=1).sum()
  np.testing.assert_allclose(decisions.feature_norm, norm, rtol=1e-6)
  np.testing.assert_array_equal(nc.nearest_class(world.features, moments), nearest)


@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
def test_no_decision_flips_under_a_common_offset(offset):
  # Catalogue 3.6: expanded distances flip 19 % of these at offset 100 and 95 % at 1000.
  rng = np.random.default_rng(0)
  means = 0.1 * rng.normal(size=(K, D))
  labels = rng.integers(0, K, 2000)
  features = (means[labels] + 0.3 * rng.normal(size=(2000, D)) + offset).astype(np.float32)
  moments = nc.ClassMoments.of(features, labels, K)
  count, mean, _, _ = oracle.class_moments(features, labels, K)
  nearest = oracle.nearest_class(features.astype(np.float64), mean, count)
  assert np.mean(np.asarray(nc.nearest_class(features, moments)) != nearest) <= 5e-4


def test_collapsed_distances_keep_their_precision():
  world = worlds.clusters(std=1e-5, offset=1.0)
  decisions = nc.decide(*world[:2], of(world))
  expected = oracle.class_moments(*world[:2], K)[2].sum()
  assert expected < N * 1e-9
  np.testing.assert_allclose(decisions.own_distance, expected, rtol=1e-5)
  assert decisions.nearest_distance == decisions.own_distance


def test_about_other_means_with_a_class_that_has_none():
  train, test = worlds.clusters(seed=1, missing=(2,)), worlds.clusters(seed=2)
  decisions = nc.decide(*test[:2], of(train))
  lost = int((test.labels == 2).sum())
  assert lost > 0 and decisions.count == N and decisions.placed == N - lost
  assert decisions.ncc_wrong >= lost
  assert decisions.nearest_distance <= decisions.own_distance
  assert not (np.asarray(nc.nearest_class(test.features, of(train))) == 2).any()


def test_ties_go_to_the_smallest_class():
  features = np.array([[1, 0], [-1, 0], [1, 0], [0, 5]], np.float32)
  moments = nc.ClassMoments.of(features, [0, 1, 2, 3], 4)
  assert nc.nearest_class(np.array([[1, 0], [0, 0]], np.float32), moments).tolist() == [0, 0]
  equal = nc.Head(np.zeros((4, 2)), np.ones(4))
  assert nc.decide(features, [0, 0, 0, 0], moments, equal).classifier_wrong == 0


def test_exact_ties_of_logits_go_to_the_smallest_class():
  # A dead example, all zeros, has the biases for logits; whole numbers have exact ones.
  rng = np.random.default_rng(0)
  means = rng.normal(size=(K, D)).astype(np.float32)
  labels = np.repeat(np.arange(K), 20)
  dead = (means[labels] * (np.arange(len(labels)) % 2)[:, None]).astype(np.float32)
  whole = np.round(2 * means[labels] + rng.normal(size=(len(labels), D))).astype(np.float32)
  for features, weight in ((dead, means), (whole, np.round(2 * means))):
    moments = nc.ClassMoments.of(features, labels, K)
    choice = (features.astype(np.float64) @ weight.T.astype(np.float64)).argmax(1)
    for bias in (None, np.full(K, 0.5)):
      decisions = nc.decide(features, labels, moments, nc.Head(weight, bias))
      assert decisions.classifier_wrong == (choice != labels).sum()


@pytest.mark.parametrize("num_classes", [3, 5, 6, 7, 10, 1500])
def test_equal_distances_go_to_the_smallest_class(num_classes):
  corners = np.eye(num_classes, dtype=np.float32)
  moments = nc.ClassMoments.of(corners, np.arange(num_classes), num_classes, scatter=False)
  between = np.stack([0 * corners[0], (corners[1] + corners[2]) / 2])
  assert nc.nearest_class(between, moments).tolist() == [0, 1]


@pytest.mark.parametrize("num_classes", [4, 600, 3000])
def test_of_a_head_of_zeros_and_of_dead_features_the_first_class_wins(num_classes):
  """All classes equal for all examples: no reason to compare each with each."""
  rng = np.random.default_rng(0)
  labels = rng.permutation(6000).astype(np.int32) % num_classes
  labels[labels == 0] = 1  # the first class has no mean
  features = rng.normal(size=(6000, 16)).astype(np.float32)
  moments = nc.ClassMoments.of(features, labels, num_classes, scatter=False)
  head = nc.Head(np.zeros((num_classes, 16)), np.zeros(num_classes))
  assert nc.decide(features, labels, moments, head).classifier_wrong == 6000
  dead = nc.ClassMoments.of(0 * features + 0.3, labels, num_classes, scatter=False)
  assert np.all(np.asarray(nc.nearest_class(0 * features + 0.3, dead)) == 1)
  # One class apart from all the equal ones.
  head.weight[-1, 0] = 1
  expected = np.where(features[:, 0] > 0, num_classes - 1, 0)
  found = nc.decide(features, expected, moments, head)
  assert found.classifier_wrong == 0


def test_one_of_equal_classes_is_compared_for_all_of_them():
  labels = np.array([1, 2, 4, 4])
  features = np.repeat(np.float32([[1, 2], [3, 4]]), [3, 1], axis=0)  # 1 and 2 are equal, 4 is not
  moments = nc.ClassMoments.of(features, labels, 6, scatter=False)
  means, head = candidates.Candidates.of(moments, nc.Head(np.zeros((6, 2)))).questions
  assert np.flatnonzero(means.twins).tolist() == [1, 2] and np.all(head.twins)
  close = np.array([[0, 1, 1, 0, 1, 0], [0, 0, 1, 0, 1, 0], [0, 0, 0, 0, 1, 0]], bool)
  found = near_ties.one_of_twins(jnp.asarray(close), means.twins)
  assert found.tolist() == [[0, 1, 0, 0, 1, 0]] * 2 + [[0, 0, 0, 0, 1, 0]]
  none = jnp.zeros(6, bool)
  assert near_ties.one_of_twins(jnp.asarray(close), none).tolist() == close.tolist()


@pytest.mark.parametrize("apart", [1e-3, 1e-4, 1e-5])
def test_classes_far_closer_to_each_other_than_to_the_rest_are_told_apart(apart):
  # Scores about μ_G round by more than what is between such classes.
  world = worlds.siblings(apart)
  num_classes = world.num_classes
  moments = nc.ClassMoments.of(*world[:2], num_classes)
  head = nc.Head(world.weight, -(world.weight.astype(np.float64) ** 2).sum(1) / 2)
  count, mean, _, _ = oracle.class_moments(world.features, world.labels, num_classes)
  nearest = oracle.nearest_class(world.features.astype(np.float64), mean, count)
  assert (nearest == world.labels).all()
  np.testing.assert_array_equal(nc.nearest_class(world.features, moments), nearest)
  assert nc.decide(*world[:2], moments).ncc_wrong == 0
  logits = world.features.astype(np.float64) @ head.weight.T + head.bias
  wrong = nc.decide(*world[:2], moments, head).classifier_wrong
  if apart > 1e-4:  # closer than that float32 cannot hold such a head
    assert wrong == (logits.argmax(1) != world.labels).sum() == 0


def test_one_class_far_away_does_not_disturb_the_others():
  rng = np.random.default_rng(0)
  means = rng.normal(size=(K, D))
  means[3] *= 1e5
  labels = np.arange(N) % K
  features = (means[labels] + 0.1 * rng.normal(size=(N, D))).astype(np.float32)
  assert nc.decide(features, labels, nc.ClassMoments.of(features, labels, K)).ncc_wrong == 0


def test_near_ties_between_tiles_of_classes_are_settled(monkeypatch):
  world = worlds.siblings(1e-4)
  # Siblings in different tiles, the later one right for half of the examples.
  order = np.argsort(np.arange(world.num_classes) % 2, kind="stable")
  labels = np.argsort(order)[world.labels]
  moments = nc.ClassMoments.of(world.features, labels, world.num_classes)
  for tile in (1, 3):
    monkeypatch.setattr(candidates, "CLASS_TILE", tile)
    assert jax.jit(lambda: nc.decide(world.features, labels, moments))().ncc_wrong == 0


@pytest.mark.parametrize("tile", [2, 3, 4])
def test_the_two_highest_scores_are_those_of_two_classes(monkeypatch, tile):
  """Tiles overlap: a class that is seen twice is not its own rival."""
  monkeypatch.setattr(candidates, "CLASS_TILE", tile)
  rng = np.random.default_rng(0)
  about, rows, bias = (rng.normal(size=s).astype(np.float32) for s in ((50, 4), (11, 4), (11,)))
  question = candidates.Question.of(jnp.asarray(rows), jnp.asarray(bias), (rows, bias))
  score, index, second = candidates._champion_of(question, jnp.asarray(about))
  scores = about @ rows.T + bias
  np.testing.assert_array_equal(index, scores.argmax(1))
  order = np.sort(scores, axis=1)
  np.testing.assert_allclose(score, order[:, -1], rtol=1e-5)
  np.testing.assert_allclose(second, order[:, -2], rtol=1e-5, atol=1e-6)


def test_of_what_is_not_finite_no_share_is_told():
  world = worlds.clusters()
  features = world.features.copy()
  features[3, 2] = np.nan
  values = nc.report(features, world.labels, num_classes=K, weight=world.weight, ranks=False)
  assert all(np.isnan(values[key]) for key in values if key[:4] in ("nc4/", "erro", "nc1/"))
  assert np.isnan(values["norm/means"]) and np.isfinite(values["norm/weights"])
  test = nc.test_collapse(*world[:2], features, world.labels, num_classes=K, weight=world.weight)
  assert all(np.isnan(test[key]) for key in test if key[:5] == "test/")


def test_tiles_of_classes_change_nothing(monkeypatch):
  world = worlds.clusters(std=2.0, missing=(0, 6))
  moments, head = of(world), nc.Head(world.weight, world.bias)
  whole = nc.decide(*world[:2], moments, head)
  for tile in (1, 3):
    monkeypatch.setattr(candidates, "CLASS_TILE", tile)
    tiled = jax.jit(lambda: nc.decide(*world[:2], moments, head))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), tiled, whole)


class TestCertainty:
  """Many classes: examples within the ball of their class are decided without scores."""

  K, D, N = 70, 12, 900

  @pytest.fixture(autouse=True)
  def small_chunks(self, monkeypatch):
    for place in (sharding, certainty):
      monkeypatch.setattr(place, "chunk_rows", lambda dim=1: 64)
    monkeypatch.setattr(pairwise, "TILE", 32)  # three tiles a side

  def world(self, std, seed=0, missing=(3, 69)):
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(self.K, self.D))
    labels = rng.choice(np.setdiff1d(np.arange(self.K), missing), self.N).astype(np.int32)
    features = means[labels] + std * rng.normal(size=(self.N, self.D)) + 5
    # Nearly the nearest-mean classifier: near collapse it decides for the label.
    bias = -(means**2).sum(1) / 2 - 5 * means.sum(1) + 0.1 * rng.normal(size=self.K)
    head = nc.Head(means + 0.02 * rng.normal(size=means.shape), bias)
    return features.astype(np.float32), labels, head

  @pytest.mark.parametrize("std", [1e-4, 0.1, 0.25, 1.0])
  def test_decisions_are_those_of_the_scores(self, std):
    features, labels, head = self.world(std)
    moments = nc.ClassMoments.of(features, labels, self.K)
    certain = nc.decide(features, labels, moments, head)
    scored = jax.jit(nc.decide)(features[:200], labels[:200], moments, head)  # too few to pay
    for start in range(200, self.N, 100):
      rows = slice(start, start + 100)
      scored = scored.merge(nc.decide(features[rows], labels[rows], moments, head))
    for name in ("count", "placed", "ncc_wrong", "classifier_wrong", "mismatch"):
      assert getattr(certain, name) == getattr(scored, name), name
    for name in ("own_distance", "nearest_distance", "feature_norm"):
      np.testing.assert_allclose(getattr(certain, name), getattr(scored, name), rtol=1e-5)

  def test_the_few_that_are_not_certain_are_scored(self):
    """A third, of which many are wrong, among those well within their class."""
    features, labels, head = self.world(0.01)
    moments = nc.ClassMoments.of(features, labels, self.K)
    features[2::3] += np.random.default_rng(1).normal(size=(self.N // 3, self.D))
    away = features - np.asarray(moments.reference + moments.mean)[labels]
    certain = np.linalg.norm(away, axis=1) < certainty.radii(moments, head)[labels]
    share = certain.reshape(15, 60).mean(axis=1)  # of each chunk
    assert np.all((share > 0.5) & (share < 0.9))
    exact = features.astype(np.float64)
    means = np.asarray(moments.reference, np.float64) + np.asarray(moments.mean, np.float64)
    distance = ((exact[:, None] - means) ** 2).sum(2)
    distance[:, np.asarray(moments.count) == 0] = np.inf
    nearest, choice = distance.argmin(1), (exact @ head.weight.T + head.bias).argmax(1)
    found = nc.decide(features, labels, moments, head)
    assert found.ncc_wrong == (nearest != labels).sum() > self.N / 20
    assert found.classifier_wrong == (choice != labels).sum() > self.N / 20
    assert found.mismatch == (choice != nearest).sum()
    np.testing.assert_allclose(found.nearest_distance, distance.min(1).sum(), rtol=1e-5)

  def test_a_report_decides_the_same(self):
    """It finds the nearest rivals on the way, about whichever centre."""
    features, labels, head = self.world(0.6)
    moments = nc.ClassMoments.of(features, labels, self.K)
    expected = nc.decide(features, labels, moments, head).shares()
    given = {"num_classes": self.K, "weight": head.weight, "bias": head.bias, "ranks": False}
    values = nc.report(features, labels, **given, global_mean="samples")
    assert expected["nc4/ncc_error"] > 0 and expected["nc4/ncc_mismatch"] > 0
    for key, value in expected.items():
      assert values[key] == pytest.approx(float(value), rel=1e-6), key
    with pytest.raises(ValueError, match=r"weight must have shape \[K, D\] = \[70, 12\]"):
      nc.report(features, labels, **given | {"weight": head.weight.T})

  def test_over_devices_it_is_the_same(self):
    features, labels, head = self.world(0.6)
    moments = nc.ClassMoments.of(features, labels, self.K)
    alone = nc.decide(features, labels, moments, head)
    assert alone.ncc_wrong > 0 and alone.mismatch > 0
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("examples",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("examples"))
    spread = nc.decide(jax.device_put(features, rows), labels, moments, head)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), spread, alone)

  def test_within_the_radius_nothing_else_is_decided(self):
    """Steps of random direction and of the radius's length, against float64."""
    features, labels, head = self.world(0.05)
    moments = nc.ClassMoments.of(features, labels, self.K)
    radii = np.asarray(certainty.radii(moments, head), np.float64)
    assert radii[3] == radii[69] == 0 and (radii > 0).sum() > self.K / 4
    means = np.asarray(moments.reference, np.float64) + np.asarray(moments.mean, np.float64)
    present = np.asarray(moments.count) > 0
    rng = np.random.default_rng(1)
    # Towards each rival, where the decision changes first, and anywhere.
    for k in np.flatnonzero(radii):
      rivals = [means[j] - means[k] for j in np.flatnonzero(present) if j != k]
      rivals += [row - head.weight[k] for j, row in enumerate(head.weight) if j != k]
      steps = np.concatenate([rivals, rng.normal(size=(50, self.D))])
      steps *= radii[k] / np.linalg.norm(steps, axis=1, keepdims=True)
      h = means[k] + steps
      distance = ((h[:, None] - means[present]) ** 2).sum(-1)
      assert (np.flatnonzero(present)[distance.argmin(1)] == k).all()
      assert ((h @ head.weight.T + head.bias).argmax(1) == k).all()

  def test_it_is_used_where_it_pays(self, monkeypatch):
    features, labels, head = self.world(1e-3)
    calls = []
    monkeypatch.setattr(certainty, "radii", lambda *args: calls.append(1) or jnp.zeros(self.K))
    nc.decide(features, labels, nc.ClassMoments.of(features, labels, self.K), head)
    assert calls == [1]
    nc.decide(features[:50], labels[:50], nc.ClassMoments.of(features, labels, self.K), head)
    assert calls == [1]


class TestPytree:
  def test_merge_and_empty(self):
    world = worlds.clusters(std=2.0)
    moments, head = of(world, scatter=False), nc.Head(world.weight)
    parts = [
      nc.decide(world.features[part], world.labels[part], moments, head)
      for part in (slice(0, 100), slice(100, N))
    ]
    whole = nc.decide(*world[:2], moments, head)
    merged = nc.Decisions.empty(moments, head).merge(parts[0]).merge(parts[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), merged, whole)

  def test_scan_carries_it(self):
    world = worlds.clusters(std=2.0)
    moments = of(world)
    batches = jnp.asarray(world.features).reshape(4, 50, D), world.labels.reshape(4, 50)
    decisions, _ = jax.lax.scan(
      lambda d, batch: (d.merge(nc.decide(*batch, moments)), None),
      nc.Decisions.empty(moments),
      batches,
    )
    assert decisions.mismatch is None and decisions.whitened is None
    assert decisions.ncc_wrong == nc.decide(*world[:2], moments).ncc_wrong

  def test_different_questions_do_not_mix(self):
    world = worlds.clusters()
    with_head = nc.decide(*world[:2], of(world), nc.Head(world.weight))
    with pytest.raises(ValueError, match="got classifier_wrong, mismatch and neither"):
      with_head.merge(nc.decide(*world[:2], of(world)))

  def test_labels_out_of_range_are_dropped_and_counted_inside_jit(self):
    world = worlds.clusters()
    moments = of(world)
    labels = world.labels.copy()
    labels[:3] = [-1, K, 99]
    decisions = jax.jit(lambda y: nc.decide(world.features, y, moments))(labels)
    expected = nc.decide(world.features[3:], labels[3:], moments)
    assert decisions.dropped == 3 and decisions.count == expected.count == N - 3
    np.testing.assert_allclose(decisions.own_distance, expected.own_distance, rtol=1e-6)


def test_the_streaming_form_of_nc1_needs_no_scatter():
  world = worlds.clusters(std=1e-3, missing=(1,))
  full, narrow = of(world), of(world, scatter=False)
  projection = nc.metrics.whitener(narrow)
  given = nc.decide(*world[:2], narrow, projection=projection)
  np.testing.assert_allclose(given.whitened, nc.decide(*world[:2], narrow).whitened, rtol=1e-6)
  assert nc.decide(*world[:2], full).whitened is None
  expected = nc.metrics.variability.pinv_ratio(full)
  streamed = nc.metrics.variability.streamed_pinv_ratio(narrow, given)
  np.testing.assert_allclose(streamed, expected, rtol=1e-5)


@pytest.mark.parametrize("conventions", [{"global_mean": "samples"}, {"between": "samples"}])
def test_the_streaming_form_knows_which_covariance_it_is_about(conventions):
  world = worlds.clusters(std=0.3)
  narrow = of(world, scatter=False)
  expected = nc.measure(of(world), **conventions)["nc1/pinv"]
  projection = nc.metrics.whitener(narrow, **conventions)
  right = nc.decide(*world[:2], narrow, projection=projection)
  value = nc.measure(narrow, decisions=right, **conventions)["nc1/pinv"]
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  other = nc.decide(*world[:2], narrow)
  with pytest.raises(ValueError, match=r"the decisions are about 'classes', 'classes': give"):
    nc.measure(narrow, decisions=other, **conventions)
  with pytest.raises(ValueError, match="conventions classes, classes"):
    right.merge(other)


def test_a_transposed_head_is_recognised():
  with pytest.raises(ValueError, match="looks transposed"):
    nc.decide(np.zeros((2, 5)), [0, 1], nc.ClassMoments.empty(3, 5), nc.Head(np.zeros((5, 3))))
