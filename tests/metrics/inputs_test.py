"""Bad input raises before anything is traced, and the message says what was expected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nc_jax as nc

FEATURES, LABELS = np.zeros((4, 3), np.float32), np.zeros(4, int)

CASES = {
  "three dimensions": (
    (np.zeros((4, 3, 1)), LABELS), ValueError,
    r"features must have shape \[N, D\] = \[N, 3\]; got \[4, 3, 1\]",
  ),
  "another width": (
    (np.zeros((4, 5)), LABELS), ValueError,
    r"features must have shape \[N, D\] = \[N, 3\]; got \[4, 5\]",
  ),
  "too few labels": (
    (FEATURES, LABELS[:3]), ValueError,
    r"labels must have shape \[N\] = \[4\] to match features \[4, 3\]; got \[3\]",
  ),
  "one-hot labels": (
    (FEATURES, np.zeros((4, 2), int)), ValueError, r"to match features \[4, 3\]; got \[4, 2\]",
  ),
  "short mask": (
    (FEATURES, LABELS, np.ones(3, bool)), ValueError,
    r"mask must have shape \[N\] = \[4\] to match features \[4, 3\]; got \[3\]",
  ),
  "float labels": (
    (FEATURES, LABELS.astype(float)), TypeError, "labels must be integers; got dtype float64",
  ),
  "spans of time": (
    (FEATURES, LABELS.astype("m8[s]")), TypeError, "labels must be integers; got dtype timedelta64",
  ),
  "features that are spans of time": (
    (FEATURES.astype("m8[s]"), LABELS), TypeError, "must hold real numbers; got dtype timedelta",
  ),
  "complex features": (
    (FEATURES.astype(complex), LABELS), TypeError, "features must hold real numbers; got dtype",
  ),
  "text features": (
    (np.full((4, 3), "x"), LABELS), TypeError, "features must hold real numbers; got dtype <U1",
  ),
  "no array": (
    ([[1, 2], [3]], LABELS), TypeError, "features must be an array; got list",
  ),
}  # fmt: skip

VALUES = {
  "label too large": (
    (FEATURES, np.array([0, 2, 5, 2])),
    r"labels must lie in \[0, 2\); got 2 at 1 \(3 of 4 labels\)",
  ),
  "negative label": ((FEATURES, np.array([0, 0, 0, -1])), r"got -1 at 3 \(1 of 4 labels\)"),
  "wide label": ((FEATURES, np.array([0, 0, 2**40, 0])), "got 1099511627776 at 2"),
  "fractional mask": ((FEATURES, LABELS, [1, 0, 0.5, 1]), "mask must be bool, or 0 and 1; got 0.5"),
}  # fmt: skip


@pytest.mark.parametrize("call", [nc.accumulate, nc.decide], ids=["accumulate", "decide"])
class TestBatches:
  def run(self, call, features, labels, mask=None):
    moments = nc.ClassMoments.empty(2, 3)
    if call is nc.accumulate:
      return call(moments, features, labels, mask)
    return call(features, labels, moments, None, mask)

  @pytest.mark.parametrize("name", CASES)
  def test_bad_shapes_and_dtypes(self, call, name):
    batch, error, words = CASES[name]
    with pytest.raises(error, match=words):
      self.run(call, *batch)

  @pytest.mark.parametrize("name", VALUES)
  def test_bad_values(self, call, name):
    batch, words = VALUES[name]
    with pytest.raises(ValueError, match=words):
      self.run(call, *batch)

  def test_shapes_raise_inside_jit_too(self, call):
    with pytest.raises(ValueError, match=r"to match features \[4, 3\]; got \[3\]"):
      jax.jit(lambda x, y: self.run(call, x, y))(FEATURES, LABELS[:3])

  def test_no_examples_are_no_error(self, call):
    out = self.run(call, FEATURES[:0], LABELS[:0])
    assert int(np.sum(out.count)) == 0


def test_nearest_class_checks_the_width():
  with pytest.raises(ValueError, match=r"\[N, D\] = \[N, 3\]; got \[4, 2\]"):
    nc.nearest_class(np.zeros((4, 2)), nc.ClassMoments.empty(2, 3))


def test_a_foreign_array_that_cannot_be_read_says_why():
  class OnAnotherDevice:
    def __array__(self, dtype=None, copy=None):
      raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __dlpack__(self, **options):
      raise BufferError("no such device")

    def __dlpack_device__(self):
      return (2, 0)

  with pytest.raises(TypeError, match="features of type OnAnotherDevice .* move it to the CPU"):
    nc.ClassMoments.of(OnAnotherDevice(), LABELS, 2)


def aligned(shape, dtype, offset=0):
  """An array that is read where it lies: it begins at a 64th byte as torch's do, or after it."""
  size = int(np.prod(shape)) * np.dtype(dtype).itemsize
  memory = np.empty(size + 128, np.uint8)
  return memory[-memory.ctypes.data % 64 + offset :][:size].view(dtype).reshape(shape)


@pytest.mark.parametrize("offset", [0, 16])  # NumPy's own large arrays begin 16 bytes off
def test_a_buffer_may_take_the_next_batch_as_soon_as_a_call_returns(offset):
  """JAX computes behind the call's back: what is read where it lies must have been read."""
  n, d, k = 8000, 256, 10
  rng = np.random.default_rng(0)
  features, labels = aligned((n, d), np.float32, offset), aligned(n, np.int32)
  weight = aligned((k, d), np.float32)
  kept = []

  def fill():
    features[:] = rng.normal(size=(n, d))
    labels[:] = rng.integers(k, size=n)
    weight[:] = rng.normal(size=(k, d))
    kept.append([jnp.array(x) for x in (features, labels, weight)])

  def spoil(result):
    features[:], labels[:], weight[:] = 1e3, 0, 1e3
    return result

  loop, expected = nc.ClassMoments.empty(k, d), nc.ClassMoments.empty(k, d)
  for _ in range(3):
    fill()
    loop = spoil(nc.accumulate(loop, features, labels))
    expected = nc.accumulate(expected, *kept[-1][:2])

  calls = {
    "accumulate": lambda x, y, w: nc.accumulate(nc.ClassMoments.empty(k, d), x, y),
    "decide": lambda x, y, w: nc.decide(x, y, expected, nc.Head(w)),
    "nearest_class": lambda x, y, w: nc.metrics.nearest_class(x, expected),
    "within_covariance": lambda x, y, w: nc.metrics.within_covariance(x, y, expected),
    "measure": lambda x, y, w: nc.measure(expected, nc.Head(w)),
  }
  pairs = {"loop": (loop, expected)}
  for name, call in calls.items():
    fill()
    call(features, labels, weight)  # compiled; what follows returns at once
    pairs[name] = spoil(call(features, labels, weight)), call(*kept[-1])
  for name, (ours, theirs) in pairs.items():
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
      scale = float(np.max(np.abs(b), initial=1))
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * scale, err_msg=name)


# --- What JAX would misread ---


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, ">f4", ">f8", ">i4", np.longdouble])
def test_numbers_that_jax_would_cut_or_refuse_are_converted_first(dtype):
  rng = np.random.default_rng(0)
  labels = np.arange(60) % 3
  small = labels[:, None] * 4 + rng.random((60, 5))
  wide = np.dtype(dtype).itemsize == 8
  features = (small * 2.0 ** (40 * wide)).astype(dtype)
  plain = features.astype(np.float64)
  expected = nc.report(plain, labels, num_classes=3, ranks=False)
  given = nc.report(features, labels, num_classes=3, ranks=False)
  for key, value in expected.items():
    np.testing.assert_allclose(given[key], value, rtol=1e-5, atol=1e-7, err_msg=key)
  moments = nc.ClassMoments.of(features, labels, 3)
  np.testing.assert_array_equal(nc.nearest_class(features, moments), labels)


def test_a_masked_array_is_refused_for_its_mask_would_be_lost():
  with pytest.raises(TypeError, match="features must be a plain array; got a masked one"):
    nc.ClassMoments.of(np.ma.masked_array(FEATURES, FEATURES == 0), LABELS, 2)


def test_inside_jit_no_wide_label_becomes_a_class():
  with jax.enable_x64(True):
    for label in (-(2**63), -(2**32), -(2**33) + 1, -1, 2**32, 2):
      moments = jax.jit(lambda y: nc.ClassMoments.of(FEATURES, y, 2))(np.array([0, 1, 1, label]))
      assert moments.dropped == 1 and moments.count.tolist() == [1, 2]


WRONG = {
  "features for moments": lambda m: nc.accumulate(FEATURES, LABELS, m),
  "nothing to merge": lambda m: nc.merge(m, None),
  "a weight for a head": lambda m: nc.measure(m, np.zeros((2, 3))),
  "a weight to decide by": lambda m: nc.decide(FEATURES, LABELS, m, np.zeros((2, 3))),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_something_else_is_named(case):
  with pytest.raises(TypeError, match=r"(moments|b|head) must be nc\.(ClassMoments|Head)"):
    WRONG[case](nc.ClassMoments.empty(2, 3))
