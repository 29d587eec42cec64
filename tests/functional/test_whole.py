import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.functional import whole


def test_root_is_the_integer_square_root():
  n = np.concatenate([np.arange(3000), np.arange(1 << 15) ** 2 - 1, [2**30 - 1]])[1:]
  n = n[n >= 0]
  np.testing.assert_array_equal(
    jax.jit(whole.root)(jnp.asarray(n, jnp.int32)), list(map(math.isqrt, n))
  )


@pytest.mark.parametrize("steps", [16, 32])
def test_power_of_half_falls_and_is_within_its_bound(steps):
  x = np.arange(16 * steps + 1)
  got = np.asarray(whole.power_of_half(jnp.asarray(x, jnp.int32), steps))
  assert (np.diff(got) <= 0).all()
  assert got[0] == 1 << 15
  assert got[-1] == 0
  exact = 2.0 ** (15 - x[:-1] / steps)
  # One for the bits that the shift drops.
  assert (np.abs(got[:-1] - exact) <= 0.0065 * exact + 1).all()


def test_rounding_is_to_the_nearest_halves_up():
  x = np.arange(-40, 41)
  np.testing.assert_array_equal(whole.shift(jnp.asarray(x, jnp.float32), 3), np.floor(x / 8 + 0.5))
  np.testing.assert_array_equal(
    whole.quotient(jnp.asarray(x, jnp.float32), jnp.full(81, 6.0)), np.floor(x / 6 + 0.5)
  )


def test_rms_norm_is_the_real_one_to_a_unit():
  x = jnp.round(jax.random.normal(jax.random.key(0), (64, 48)) * 300)
  exact = np.asarray(x, np.float64)
  exact *= 32 / np.sqrt((exact**2).mean(axis=1, keepdims=True))
  # Half a unit, and 127 of what a whole root of 2000 and a whole factor of 222 are off by.
  off = 0.5 + 127 * (1 / 1800 + 0.5 / 221)
  np.testing.assert_allclose(whole.rms_norm(x, 32), np.clip(exact, -127, 127), atol=off, rtol=0)
  assert not whole.rms_norm(jnp.zeros((1, 48)), 32).any()


def test_products_are_exact_at_the_limit_whatever_the_order():
  x = jnp.full((1, 1000), 127.0)
  w = jnp.full((1000, 1), 127.0).at[::2].set(126.0)
  expected = 127 * (500 * 127 + 500 * 126)
  assert expected < whole.EXACT
  order = jax.random.permutation(jax.random.key(0), 1000)
  assert whole.matmul(x, w)[0, 0] == whole.matmul(x[:, order], w[order])[0, 0] == expected


def test_noise_is_rounded_away():
  x, w = jnp.full((2, 8), 3.0), jnp.full((8, 4), -5.0)
  noisy = whole.matmul(x, w, lambda shape: jnp.full(shape, 0.49))
  np.testing.assert_array_equal(noisy, whole.matmul(x, w))


def test_gradients_are_those_of_the_real_functions():
  x = jnp.asarray([40.0, -7.0, 100.0, 3.0])
  np.testing.assert_allclose(jax.grad(lambda x: whole.shift(x, 3).sum())(x), np.full(4, 1 / 8))
  y = jnp.asarray([5.0, 6.0, 7.0, 8.0])
  np.testing.assert_allclose(jax.grad(lambda x: whole.quotient(x, y).sum())(x), 1 / y, rtol=1e-6)
  real = jax.grad(lambda x: jnp.dot(y, 64 * x / jnp.sqrt((x * x).sum() + 1)))(x)
  np.testing.assert_allclose(
    jax.grad(lambda x: jnp.dot(y, whole.rms_norm(x, 32)))(x), real, rtol=1e-5
  )
