import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec import functional as F


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_definition(q, k, v, window):
  """Each query's softmax over the keys it may see, one at a time, in float64."""
  q, k, v = (x.astype(np.float64) for x in (q, k, v))
  y = np.zeros_like(q)
  for t in range(q.shape[1]):
    seen = slice(max(0, t - window + 1), t + 1)
    scores = np.einsum("bhd,bshd->bhs", q[:, t], k[:, seen]) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    y[:, t] = np.einsum("bhs,bshd->bhd", weights, v[:, seen])
  return y


def with_past(x, window):
  return jnp.pad(x, ((0, 0), (window - 1, 0), (0, 0), (0, 0)), constant_values=1e3)


attend = jax.jit(F.window_attention, static_argnames="window")


@pytest.mark.parametrize(("steps", "window"), [(1, 1), (1, 4), (7, 3), (130, 5), (300, 200)])
def test_window_attention_is_its_definition(steps, window):
  q, k, v = (normal(2, steps, 2, 4, seed=s) for s in range(3))
  past = [with_past(x, window) for x in (k, v)]  # Before the start: must not be seen.
  got = attend(q, *past, np.zeros(2, np.int32), window=window)
  np.testing.assert_allclose(got, by_definition(q, k, v, window), atol=1e-5)


def test_rows_that_stand_at_different_places_see_their_own_past():
  window, steps = 4, 6
  q, k, v = (normal(2, steps, 1, 4, seed=s) for s in range(3))
  whole = by_definition(q, k, v, window)
  # Row 0 starts here; row 1 is two steps in, and its past holds them.
  k_past, v_past = (np.array(with_past(x, window)) for x in (k, v))
  before = [normal(1, 2, 1, 4, seed=s) for s in (7, 8, 9)]
  for past, part in ((k_past, before[1]), (v_past, before[2])):
    past[1, window - 3 : window - 1] = part[0]
  got = np.asarray(attend(q, k_past, v_past, np.array([0, 2], np.int32), window=window))
  np.testing.assert_allclose(got[0], whole[0], atol=1e-5)
  joined = [np.concatenate([b, x[1:]], axis=1) for b, x in zip(before, (q, k, v), strict=True)]
  np.testing.assert_allclose(got[1], by_definition(*joined, window)[0, 2:], atol=1e-5)


def test_rotary_turns_each_pair_by_its_position():
  x = normal(2, 3, 1, 4)
  got = F.rotary(x, np.array([0, 5]), base=100.0)
  for row, start in enumerate([0, 5]):
    for t in range(3):
      for pair, frequency in enumerate([1.0, 0.1]):
        z = complex(x[row, t, 0, pair], x[row, t, 0, pair + 2])
        z *= np.exp(1j * (start + t) * frequency)
        np.testing.assert_allclose(got[row, t, 0, pair], z.real, atol=1e-5)
        np.testing.assert_allclose(got[row, t, 0, pair + 2], z.imag, atol=1e-5)


def test_scores_depend_on_distance_alone():
  q, k = normal(1, 1, 1, 8), normal(1, 1, 1, 8, seed=1)
  products = [
    jnp.vdot(F.rotary(q, np.array([i + 3])), F.rotary(k, np.array([i]))) for i in (0, 17, 400)
  ]
  np.testing.assert_allclose(products, products[0], rtol=1e-4)
