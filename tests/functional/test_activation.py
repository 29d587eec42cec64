import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec import functional as F


def test_elu_is_the_exponential_below_zero():
  x = np.float32([-100, -3, -0.5, -1e-3, -0.0, 0.0, 1e-3, 2, 1e30])
  want = np.where(x > 0, x, np.expm1(np.minimum(x, 0).astype(np.float64)))
  np.testing.assert_allclose(F.elu(x), want, atol=1e-7)
  slope = jax.vmap(jax.grad(F.elu))(x)
  np.testing.assert_allclose(slope, np.where(x > 0, 1, np.exp(np.minimum(x, 0))), atol=1e-7)
  assert F.elu(jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16


def test_snake_is_a_ramp_and_a_squared_sine():
  rng = np.random.default_rng(0)
  x = 4 * rng.normal(size=(2, 50, 3)).astype(np.float32)
  alpha = np.float32([0.3, 1.0, 7.0])
  want = x + np.sin(alpha.astype(np.float64) * x) ** 2 / alpha
  np.testing.assert_allclose(F.snake(x, alpha), want, atol=1e-6)


def test_the_gradient_of_snake_is_its_derivative():
  rng = np.random.default_rng(0)
  x, weight = rng.normal(size=(2, 2, 50, 3)).astype(np.float32)
  alpha = np.float32([0.3, 1.0, 7.0])

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1))
  def gradients(x, alpha):
    return jnp.sum(weight * F.snake(x, alpha))

  by_x, by_alpha = gradients(x, alpha)
  turn, wide = 2 * alpha.astype(np.float64) * x, alpha.astype(np.float64)
  np.testing.assert_allclose(by_x, weight * (1 + np.sin(turn)), atol=1e-5)
  want = weight * (x * np.sin(turn) / wide - np.sin(turn / 2) ** 2 / wide**2)
  np.testing.assert_allclose(by_alpha, want.sum((0, 1)), rtol=1e-4)
  kept = jax.vjp(F.snake, *(jnp.bfloat16(a) for a in (x, alpha)))[1](jnp.bfloat16(weight))
  assert [g.dtype for g in kept] == [jnp.bfloat16, jnp.bfloat16]
  np.testing.assert_allclose(np.float32(kept[1]), by_alpha, rtol=0.05, atol=0.5)


def test_snake_is_the_identity_where_alpha_is_zero():
  x = np.float32([[-3.0, 0.0, 2.5]])
  np.testing.assert_array_equal(F.snake(x, np.zeros(3, np.float32)), x)


def test_snake_keeps_its_precision_over_many_turns():
  x = np.linspace(-300, 300, 20_001, dtype=np.float32)[:, None]
  alpha = np.float32([0.05, 1, 7])
  product = (x * alpha).astype(np.float64)  # As rounded to float32: the sine starts from that.
  want = x + np.sin(product) ** 2 / alpha.astype(np.float64)
  # Half a unit of the last place of 320, and 2e-7 of the sine's own.
  np.testing.assert_allclose(jax.jit(F.snake)(x, alpha), want, atol=1.6e-5 + 2e-7 / alpha.min())
  assert F.snake(jnp.ones((2, 1), jnp.bfloat16), jnp.ones(1, jnp.bfloat16)).dtype == jnp.bfloat16
