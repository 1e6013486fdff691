"""measure and report against known worlds, the float64 oracle, and the theory's invariances."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import worlds

import nc_jax as nc
from nc_jax.metrics import in_place, sharding, variability

TEST_ONLY = {key for key, row in nc.METRICS.items() if "test" in row.needs}
ALL = [key for key in nc.METRICS if key not in TEST_ONLY]


def report(world, **options):
  return nc.report(
    world.features,
    world.labels,
    num_classes=world.num_classes,
    weight=world.weight,
    bias=world.bias,
    **options,
  )


def assert_close(values, expected, rtol, atol=0.0, keys=None):
  """Every key of `expected`; the message names the metric."""
  for key in keys or expected:
    np.testing.assert_allclose(values[key], expected[key], rtol=rtol, atol=atol, err_msg=key)


class TestKnownWorlds:
  def test_total_collapse_sits_at_every_limit(self):
    values = report(worlds.collapsed())
    assert list(values) == ALL
    for key, row in nc.METRICS.items():
      if row.at_collapse is not None and key not in TEST_ONLY:
        limit = row.at_collapse(worlds.K)
        # Cosines and norms of order 1 are rounded to 6e-8 each.
        assert values[key] == pytest.approx(limit, abs=1e-6, rel=1e-6), key
    for key in ("nc1/pinv", "nc1/trace_ratio", "nc1/cdnv", "nc1/vci", "nc4/ncc_error"):
      assert values[key] == 0, key  # nothing varies: no rounding either

  def test_random_features_sit_at_no_limit(self):
    rng = np.random.default_rng(0)
    world = worlds.clusters()._replace(
      features=rng.normal(size=(worlds.N, worlds.D)).astype(np.float32),
      weight=rng.normal(size=(worlds.K, worlds.D)).astype(np.float32),
    )
    values = report(world)
    for key, row in nc.METRICS.items():
      if row.at_collapse is not None and key not in (*TEST_ONLY, "rank/between"):
        # The variance of −log distance over few pairs is the smallest of them, about 0.01.
        assert abs(values[key] - row.at_collapse(worlds.K)) > 0.003, key

  def test_two_classes_make_nc2_of_means_vacuous(self):
    values = report(worlds.clusters(missing=(0, 2, 3, 4, 6)))
    for key in ("equiangular", "angle_std", "equinorm", "etf"):
      assert values[f"nc2/{key}_means"] == pytest.approx(0, abs=1e-6)
    assert values["nc2/equinorm_weights"] > 0.01
    assert values["nc2/etf_weights"] > 0.01


# Standard, with empty and one-example classes, far from the origin, K > D, D > N.
WORLDS = {
  "standard": worlds.clusters(),
  "gaps": worlds.clusters(seed=1, missing=(0, 4), single=(2,)),
  "offset": worlds.clusters(seed=2, offset=100.0),
  "more classes than dimensions": worlds.clusters(seed=3, num_classes=12, dim=7),
  "more dimensions than examples": worlds.clusters(seed=4, num_classes=4, dim=60, size=40),
}


class TestOracle:
  @pytest.mark.parametrize("name", WORLDS)
  def test_float32(self, name):
    world = WORLDS[name]
    expected = oracle.measure(*world[:2], world.num_classes, *world[2:])
    assert set(expected) == set(ALL)
    # Features are data, not rounded again; what remains are some ten roundings of 6e-8. VCI is
    # 0 where D > N, and is 1 minus something.
    assert_close(report(world), expected, rtol=2e-5, atol=1e-7)

  @pytest.mark.parametrize("std", [1e-1, 1e-3, 1e-5])
  @pytest.mark.parametrize("offset", [0.0, 1.0])
  def test_float32_as_the_within_class_spread_vanishes(self, std, offset):
    world = worlds.clusters(seed=5, std=std, offset=offset)
    expected = oracle.measure(*world[:2], world.num_classes, *world[2:])
    assert expected["nc1/pinv"] < std**2 * 10  # the world is as collapsed as it claims
    assert_close(report(world), expected, rtol=2e-5)

  def test_float64(self):
    world = WORLDS["gaps"]._replace(features=WORLDS["gaps"].features.astype(np.float64))
    expected = oracle.measure(*world[:2], world.num_classes, *world[2:])
    with jax.enable_x64(True):
      values = report(world)
    assert_close(values, expected, rtol=1e-9, atol=1e-12)

  OPTIONS = [
    {"global_mean": "samples", "norm_ddof": 0, "pair_ddof": 1, "riesz_s": 2.0},
    {"global_mean": "samples", "within": "classes", "between": "samples", "riesz_s": -1.0},
  ]

  @pytest.mark.parametrize("options", OPTIONS, ids=str)
  def test_conventions(self, options):
    world = WORLDS["gaps"]
    expected = oracle.measure(*world[:2], world.num_classes, *world[2:], **options)
    assert_close(report(world, **options), expected, rtol=2e-5)

  def test_conventions_coincide_for_balanced_data(self):
    world = worlds.clusters(size=7 * 30)
    world = world._replace(labels=np.tile(np.arange(7, dtype=np.int32), 30))
    default = report(world)
    del default["nc2/riesz_energy"]
    assert_close(report(world, **self.OPTIONS[1]), default, rtol=1e-5)

  @pytest.mark.parametrize("options", [{}, OPTIONS[1]], ids=str)
  def test_without_scatter_only_vci_and_ranks_are_missing(self, options):
    world = WORLDS["gaps"]
    values = report(world, scatter=False, **options)
    with_scatter = report(world, **options)
    ranks = {"rank/effective", "rank/stable", "rank/numerical", "rank/nuclear"}
    assert set(with_scatter) - set(values) == {"nc1/vci"} | ranks
    assert_close(values, with_scatter, rtol=1e-5, keys=list(values))


class TestInvariances:
  """Rotation, shift and scale change features by one rounding each, 6e-8 of their size."""

  def moved(self, world, scale=1.0, shift=0.0, weight_scale=1.0):
    rotation = worlds.rotation(worlds.D)
    features = scale * world.features.astype(np.float64) @ rotation.T + shift
    weight = weight_scale * world.weight.astype(np.float64) @ rotation.T
    return world._replace(features=features.astype(np.float32), weight=weight.astype(np.float32))

  def test_rotate_scale_and_shift(self):
    world = worlds.clusters(seed=6)
    before = report(world)
    after = report(self.moved(world, scale=3.0, shift=0.7, weight_scale=0.2))
    free = ("norm/", "trace/", "nc3/bias", "nc3/uniform_duality_dot", "nc0")
    biased = ("nc4/ncc_mismatch", "error/")  # the bias does not follow
    fixed = [key for key in before if not key.startswith(free + biased)]
    assert "nc1/pinv" in fixed and "nc3/self_duality" in fixed and "nc4/ncc_error" in fixed
    assert_close(after, before, rtol=2e-5, keys=fixed)

  def test_vci_under_an_invertible_linear_map(self):
    world = worlds.clusters(seed=6)
    stretch = worlds.rotation(worlds.D) * np.geomspace(1, 10, worlds.D)
    stretched = world._replace(features=(world.features @ stretch).astype(np.float32))
    before, after = report(world), report(stretched)
    # Condition 100 of the covariance times 6e-8.
    np.testing.assert_allclose(after["nc1/vci"], before["nc1/vci"], rtol=1e-4)
    assert abs(after["nc1/pinv"] / before["nc1/pinv"] - 1) > 0.1  # not for pinv

  def test_renaming_classes(self):
    world = worlds.clusters(seed=6, missing=(3,))
    order = np.random.default_rng(0).permutation(worlds.K)
    back = np.argsort(order)
    renamed = world._replace(
      labels=order[world.labels], weight=world.weight[back], bias=world.bias[back]
    )
    assert_close(report(renamed), report(world), rtol=1e-5)

  def test_every_example_three_times(self):
    world = worlds.clusters(seed=6)
    thrice = world._replace(
      features=np.tile(world.features, (3, 1)), labels=np.tile(world.labels, 3)
    )
    assert_close(report(thrice), report(world), rtol=1e-5)


class TestEdges:
  def test_no_class_and_one_class_are_nan_where_pairs_are_needed(self):
    world = worlds.clusters()
    world = world._replace(labels=np.zeros_like(world.labels))
    for mask in (np.zeros(worlds.N, bool), np.ones(worlds.N, bool)):
      values = report(world, mask=mask)
      assert values["classes/present"] == mask.any()
      for key, value in values.items():
        if key.startswith(("nc1/", "nc2/")):
          assert np.isnan(value), key

  def test_equal_class_means_never_read_as_collapse(self):
    features = np.full((worlds.N, worlds.D), 3.3, np.float32)
    labels = np.arange(worlds.N) % worlds.K
    world = worlds.clusters()._replace(features=features, labels=labels)
    values = report(world)
    for key in ("nc1/pinv", "nc1/vci", "nc1/trace_ratio", "nc1/cdnv"):
      assert np.isnan(values[key]), key  # 0 / 0
    assert values["rank/between"] == 0
    # With variance, but the same on both sides of the mean: x / 0.
    signs = np.where(np.arange(worlds.N) // worlds.K % 2, 1, -1)[:, None]
    size = worlds.N // (2 * worlds.K) * 2 * worlds.K
    values = report(world._replace(features=(features + signs)[:size], labels=labels[:size]))
    assert values["nc1/trace_ratio"] == values["nc1/cdnv"] == np.inf
    assert np.isnan(values["nc1/pinv"]) and np.isnan(values["nc1/vci"])

  def test_two_equal_means_among_others(self):
    world = worlds.clusters(seed=7)
    features = world.features.copy()
    features[world.labels == 1] = features[world.labels == 0][0]
    features[world.labels == 0] = features[world.labels == 0][0]
    features[world.labels == 2] += 1
    values = report(world._replace(features=features))
    assert np.isnan(values["nc1/cdnv"])  # neither of the two varies
    assert values["nc2/log_energy"] == np.inf
    assert np.isfinite(values["nc1/pinv"])

  def test_a_zero_mean_has_cosine_zero(self):
    means = np.array([[1, 0], [-1, 0], [0, 0]], np.float32)
    moments = nc.ClassMoments.of(means, np.arange(3), 3)
    values = nc.measure(moments)
    # Pairs: cosines −1, 0, 0 against −1/2; distances 2, 1, 1.
    assert values["nc2/equiangular_means"] == pytest.approx(0.5, rel=1e-6)
    assert values["nc2/log_energy"] == pytest.approx(-np.log(2) / 3, rel=1e-6)

  def test_nan_features_give_nan_not_numbers(self):
    world = worlds.clusters()
    features = world.features.copy()
    features[3, 2] = np.nan
    values = report(world._replace(features=features))
    assert np.isnan([values[k] for k in ("nc1/pinv", "nc1/trace_ratio", "nc2/etf_means")]).all()


class TestCalls:
  def test_measure_without_head_or_decisions(self):
    world = worlds.clusters()
    moments = nc.ClassMoments.of(*world[:2], worlds.K)
    values = nc.measure(moments)
    needs = [set(nc.METRICS[key].needs) for key in values]
    assert all(need <= {"moments", "scatter"} for need in needs)
    assert list(values) == [key for key in nc.METRICS if key in values]
    assert all(v.dtype == jnp.float32 and v.shape == () for v in values.values())

  def test_jit_and_vmap_equal_plain_calls(self):
    world = worlds.clusters()

    def of(features):
      return nc.measure(nc.ClassMoments.of(features, world.labels, worlds.K))

    pair = jnp.stack([world.features, 2 * world.features**2])
    both = jax.jit(jax.vmap(of))(pair)
    for i, features in enumerate(pair):
      assert_close({key: value[i] for key, value in both.items()}, of(features), rtol=1e-5)

  def test_measure_compiles_once_per_shape(self):
    programs = sys.modules["nc_jax.metrics.report"]._measure_rest, variability.measure
    a, b = (nc.ClassMoments.of(*worlds.clusters(seed)[:2], worlds.K) for seed in (0, 1))
    nc.measure(a)
    before = [program._cache_size() for program in programs]
    nc.measure(b)
    nc.measure(nc.merge(a, b))
    assert [program._cache_size() for program in programs] == before

  @pytest.mark.parametrize(
    "options, words",
    [
      ({"global_mean": "median"}, "global_mean must be one of classes, samples; got 'median'"),
      ({"within": "class"}, "within must be one of samples, classes"),
      ({"between": "none"}, "between must be one of classes, samples"),
    ],
  )
  def test_unknown_conventions_list_the_known(self, options, words):
    with pytest.raises(ValueError, match=words):
      nc.measure(nc.ClassMoments.empty(3, 4), **options)

  def test_transposed_and_misshapen_heads(self):
    moments = nc.ClassMoments.empty(3, 4)
    with pytest.raises(ValueError, match=r"\[3, 4\]; got \[4, 3\]: it looks transposed"):
      nc.measure(moments, nc.Head(np.zeros((4, 3))))
    with pytest.raises(ValueError, match=r"weight must have shape .*\[3, 4\]; got \[3, 5\]$"):
      nc.measure(moments, nc.Head(np.zeros((3, 5))))
    with pytest.raises(ValueError, match=r"bias must have shape \[K\] = \[3\]; got \[4\]"):
      nc.measure(moments, nc.Head(np.zeros((3, 4)), np.zeros(4)))
    with pytest.raises(ValueError, match="bias needs a weight"):
      nc.report(np.zeros((2, 4)), np.zeros(2, int), num_classes=3, bias=np.zeros(3))

  def test_a_stack_of_moments_is_refused(self):
    stack = jax.tree.map(lambda x: x[None], nc.ClassMoments.empty(3, 4))
    with pytest.raises(ValueError, match=r"must have shape \[K, D\]; got \[1, 3, 4\]"):
      nc.measure(stack)


REFUSED_AT_ONCE = {
  "weight": ({"weight": np.zeros((4, 3))}, r"weight must have shape .* \[3, 4\]; got \[4, 3\]"),
  "bias": ({"weight": np.zeros((3, 4)), "bias": np.zeros(4)}, r"bias must have shape .* \[3\]"),
  "convention": ({"within": "x"}, "within must be one of samples, classes; got 'x'"),
  "text for a number": ({"num_classes": "3"}, "num_classes must be a positive integer; got '3'"),
  "truth for a number": ({"num_classes": True}, "num_classes must be a positive integer; got True"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_AT_ONCE)
@pytest.mark.parametrize("call", ["report", "test_collapse"])
def test_what_is_wrong_is_told_before_the_first_pass(call, case, monkeypatch):
  monkeypatch.setattr(nc.ClassMoments, "of", None)
  options, message = REFUSED_AT_ONCE[case]
  data = (np.zeros((5, 4)), np.zeros(5, int)) * (1 if call == "report" else 2)
  with pytest.raises(ValueError, match=message):
    getattr(nc, call)(*data, **{"num_classes": 3} | options)


def test_an_unknown_option_of_report_lists_the_known():
  with pytest.raises(TypeError, match="report takes no option withn; it takes between, global"):
    nc.report(np.zeros((5, 4)), np.zeros(5, int), num_classes=3, withn="classes")


@pytest.mark.parametrize("call", ["report", "test_collapse"])
@pytest.mark.parametrize("room, once", [(4, True), (3, False)])  # of the features' size
def test_an_accelerator_with_room_is_sent_features_once(call, room, once, monkeypatch):
  world = worlds.clusters()
  data = (world.features.astype(np.float64), world.labels)  # JAX makes them float32
  run = {
    "report": lambda: nc.report(*data, num_classes=worlds.K),
    "test_collapse": lambda: nc.test_collapse(*data, *data, num_classes=worlds.K),
  }[call]
  expected, slices = run(), []
  put = in_place.put
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(sharding, "_room", lambda: room * world.features.nbytes)
  monkeypatch.setattr(in_place, "put", lambda arrays: slices.append(arrays) or put(arrays))
  values = run()
  assert (len(slices) == 0) == once
  for key, value in expected.items():
    assert values[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
