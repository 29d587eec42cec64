"""Attention over places: its equations in NumPy, and whole-number forms against the real ones."""

import jax
import numpy as np
import pytest
from scipy import special

from jaxcodec import functional as F
from jaxcodec.functional import exact, exact_attention
from jaxcodec.functional.exact import UNIT
from jaxcodec.layers.references import anchors, known_in_windows, turned

RNG = np.random.default_rng(0)
H, D, SIZE = 2, 8, 5
Q, K, V = RNG.normal(size=(3, 1, 4, 6, SIZE**2, H, D)).astype(np.float32)
BIAS = RNG.normal(size=(H, SIZE**2, SIZE**2)).astype(np.float32)
KNOWN = known_in_windows(4, 6)
PLACES = RNG.normal(size=(3, 2, 24, H, D)).astype(np.float32)
HOLDS = np.arange(24) % 2 == 1
X = RNG.normal(size=(2, 4, 6, 3)).astype(np.float32)
KERNEL = RNG.normal(size=(5, 3, 3)).astype(np.float32)
ANGLES = F.window_rotation(SIZE, D)


@pytest.fixture(scope="module")
def real():
  """What the functions give, in one program."""

  @jax.jit
  def run(q, k, v, places, x):
    return {
      "local": F.local_attention(q, k, v, BIAS, KNOWN),
      "linear": F.linear_attention(*places, asks=~HOLDS, holds=HOLDS),
      "everywhere": F.linear_attention(*places),
      "windows": F.neighbours(x, SIZE),
      "depthwise": F.depthwise_conv2d(x, KERNEL, np.float32([1, 2, 3])),
      "turned": turned(q, ANGLES),
      "anchors": anchors(4, 6),
    }

  return {name: np.asarray(y) for name, y in run(Q, K, V, PLACES, X).items()}


def test_the_gradient_of_windows_adds_up_what_saw_a_place():
  g = RNG.normal(size=(2, 4, 6, SIZE**2, 3)).astype(np.float32)
  (found,) = jax.jit(lambda x: jax.vjp(lambda x: F.neighbours(x, SIZE), x)[1](g))(X)
  want = np.zeros((2, 8, 10, 3))
  for tap, (i, j) in enumerate(np.ndindex(SIZE, SIZE)):
    want[:, i : i + 4, j : j + 6] += g[..., tap, :]
  np.testing.assert_allclose(found, want[:, 2:6, 2:8], atol=1e-5)


def test_a_depthwise_gradient_is_that_of_the_convolution_of_groups():
  bias, g = np.float32([1, 2, 3]), RNG.normal(size=X.shape).astype(np.float32)

  def grouped(x, kernel, bias):
    numbers, groups = ("NHWC", "HWIO", "NHWC"), x.shape[-1]
    kernel = kernel[:, :, None]
    return bias + jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )

  @jax.jit
  def run(x, kernel, bias):
    return [jax.vjp(f, x, kernel, bias)[1](g) for f in (F.depthwise_conv2d, grouped)]

  for found, wanted in zip(*run(X, KERNEL, bias), strict=True):
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_a_window_is_read_row_by_row_with_zeros_outside(real):
  windows = real["windows"].reshape(2, 4, 6, SIZE, SIZE, 3)
  np.testing.assert_array_equal(windows[:, 1, 3, 1:, :], X[:, 0:4, 1:6])
  assert not windows[:, 1, 3, 0].any()


def test_anchors_are_places_of_odd_sum(real):
  np.testing.assert_array_equal(real["anchors"][..., 0], np.indices((4, 6)).sum(axis=0) % 2 == 1)
  np.testing.assert_array_equal(KNOWN[..., SIZE**2 // 2], real["anchors"][..., 0])
  assert not KNOWN[0, 0, : 2 * SIZE].any()


def test_known_queries_see_known_keys_and_others_all(real):
  for i, j in ((0, 0), (2, 3)):
    for query in (6, 12, 13):
      seen = KNOWN[i, j] if KNOWN[i, j, query] else np.ones(SIZE**2, bool)
      for head in range(H):
        scores = K[0, i, j, :, head] @ Q[0, i, j, query, head] / np.sqrt(D) + BIAS[head, query]
        weights = special.softmax(scores[seen])
        want = weights @ V[0, i, j, seen, head]
        np.testing.assert_allclose(real["local"][0, i, j, query, head], want, atol=1e-5)


def test_linear_attention_is_softmax_over_places_times_softmax_over_features(real):
  q, k, v = PLACES.astype(np.float64)
  for name, holds, asks in (("linear", HOLDS, ~HOLDS), ("everywhere", True, True)):
    holds, asks = (np.broadcast_to(there, 24) for there in (holds, asks))
    want = np.zeros_like(q)
    keys = special.softmax(k[:, holds], axis=1)
    for row in np.flatnonzero(asks):
      query = special.softmax(q[:, row], axis=-1)
      weights = np.einsum("bhd,bnhd->bnh", query, keys)  # The N x N form.
      want[:, row] = np.einsum("bnh,bnhd->bhd", weights, v[:, holds])
    np.testing.assert_allclose(real[name], want, atol=1e-5)


def test_scores_of_turned_windows_depend_on_offsets_alone(real):
  # One query and one key everywhere: their product is then a function of the offset.
  q = np.broadcast_to(Q[..., :1, :, :], Q.shape)
  turn = np.exp(1j * ANGLES)[:, None]

  def complex_of(x):
    return (x[..., : D // 2] + 1j * x[..., D // 2 :]) * turn

  np.testing.assert_allclose(
    real["turned"][..., : D // 2] + 1j * real["turned"][..., D // 2 :], complex_of(Q), atol=1e-5
  )
  a = complex_of(q)[0, 0, 0, :, 0]
  scores = (a[:, None].conj() * a).sum(axis=-1).real
  index = F.window_bias_index(SIZE)
  for offset in range((2 * SIZE - 1) ** 2):
    same = scores[index == offset]
    np.testing.assert_allclose(same, same[0], rtol=1e-12)
  assert len(np.unique(scores.round(9))) > 20
  with pytest.raises(ValueError, match="heads of 6 features"):
    F.window_rotation(SIZE, 6)


def test_a_depthwise_convolution_sees_its_channel_alone(real):
  padded = np.pad(X, ((0, 0), (2, 2), (1, 1), (0, 0)))
  want = np.float32([1, 2, 3]) + sum(
    padded[:, i : i + 4, j : j + 6] * KERNEL[i, j] for i, j in np.ndindex(5, 3)
  )
  np.testing.assert_allclose(real["depthwise"], want, atol=1e-5)
  layer = exact.depthwise(KERNEL, [1, 2, 3])
  found = exact.apply(layer, exact.whole(X[0])) / UNIT
  np.testing.assert_allclose(found, want[0], atol=2e-3)


def test_whole_numbers_give_what_floats_do(real):
  flat = lambda x: exact.whole(x[0].reshape(24, SIZE**2, H, D))  # noqa: E731
  known = KNOWN.reshape(24, -1)
  local = exact_attention.local_attention(flat(Q), flat(K), flat(V), exact.whole(BIAS), known)
  np.testing.assert_allclose(
    local.reshape(real["local"][0].shape) / UNIT, real["local"][0], atol=2e-3
  )
  whole = exact_attention.turned(flat(Q), SIZE).reshape(Q[0].shape) / UNIT
  np.testing.assert_allclose(whole, real["turned"][0], atol=1e-3)
  q, k, v = (exact.whole(part[0]) for part in PLACES)
  linear = exact_attention.linear_attention(q[~HOLDS], k[HOLDS], v[HOLDS])
  np.testing.assert_allclose(linear / UNIT, real["linear"][0, ~HOLDS], atol=1e-3)
  np.testing.assert_array_equal(
    exact_attention.neighbours(X[0].astype(np.float64), SIZE).reshape(real["windows"][0].shape),
    real["windows"][0],
  )


def test_a_norm_of_whole_numbers_is_a_layer_norm():
  x = 5 + 3 * RNG.normal(size=(7, 24))
  scale, bias = RNG.normal(size=(2, 24))
  want = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
  found = exact_attention.normed(exact_attention.norm(scale, bias, 1e-5), exact.whole(x))
  np.testing.assert_allclose(found / UNIT, want * scale + bias, atol=1e-3)
  # As far out as any activation is, it still sums up exactly.
  far = exact_attention.normed(exact_attention.norm(scale, bias, 1e-5), np.full((1, 24), 2.0**22))
  np.testing.assert_array_equal(far[0], exact.whole(bias))


def test_sums_are_whole_and_below_what_float64_holds():
  """The largest that a million places can add up to."""
  most = exact_attention._MOST_VALUE * 2.0**14 * 2**20
  assert most < 2**53
  values = np.full((3, 1, 2), 2.0**22)
  y = exact_attention.linear_attention(np.zeros((1, 1, 2)), np.zeros((3, 1, 2)), values)
  np.testing.assert_array_equal(y, exact_attention._MOST_VALUE)
