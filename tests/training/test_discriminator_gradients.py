"""Gradients of the discriminators' convolutions, which are written for speed on CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.training import discriminators


@pytest.mark.parametrize("rows", [1, 3, 5])
@pytest.mark.parametrize(
  ("strides", "dilation"),
  [
    ((1, 1), (1, 1)),
    ((1, 2), (1, 1)),
    ((1, 2), (2, 1)),
    ((3, 1), (1, 1)),
    ((2, 3), (1, 1)),
    ((1, 2), (1, 2)),
  ],
)
def test_gradients_are_those_of_the_convolution(monkeypatch, rows, strides, dilation):
  # One or two examples a part, so that parts are of unequal size.
  monkeypatch.setattr(discriminators, "_CACHED", 9000)
  monkeypatch.setattr(jax, "device_count", lambda: 1)
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (rows, 11, 17, 3))
  kernel = jax.random.normal(keys[1], (3, 5, 3, 8))
  how = strides, ((2, 1), (3, 4)), dilation

  def gradients(convolve):
    y = convolve(x, kernel, *how)
    weights = jax.random.normal(keys[2], y.shape)
    return jax.grad(lambda x, kernel: jnp.vdot(weights, convolve(x, kernel, *how)), (0, 1))(
      x, kernel
    )

  for found, expected in zip(
    gradients(discriminators._conv), gradients(discriminators._plain_conv), strict=True
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_the_penalty_of_a_gradient_has_one_too():
  x = jax.random.normal(jax.random.key(0), (2, 6, 9, 2))
  kernel = jax.random.normal(jax.random.key(1), (3, 3, 2, 4))
  how = (1, 2), ((1, 1), (1, 1)), (1, 1)

  def penalty(convolve, kernel):
    gradient = jax.grad(lambda x: jnp.sum(jnp.tanh(convolve(x, kernel, *how))))(x)
    return jnp.sum(gradient**2)

  found, expected = (
    jax.grad(lambda kernel, convolve=convolve: penalty(convolve, kernel))(kernel)
    for convolve in (discriminators._conv, discriminators._plain_conv)
  )
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
