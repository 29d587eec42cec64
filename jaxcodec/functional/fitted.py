"""Rounding and its price as a codec that is fitted to one signal has them.

Everything is elementwise. Source: Kim et al., https://arxiv.org/abs/2312.02753 (C3), section 3.2;
google-deepmind/c3_neural_compression, model/latents.py and model/laplace.py.
"""

import jax
import jax.numpy as jnp

from jaxcodec.functional.rate import soft_round, soft_round_inverse

_MOST_BITS = 16.0  # Of an integer's price: what is less likely than 2^-16 costs no more.


def kumaraswamy(u, a):
  """Numbers in (0, 1) of the density whose mode is 1/2 and whose peak grows with `a`, from uniform
  ones: (1 - (1 - u)^(1/b))^(1/a), b = (2^a (a - 1) + 1) / a. For a = 1 it is `u` itself."""
  b = (2**a * (a - 1) + 1) / a
  # At 0 and 1 the inverse of soft rounding, and the gradient by `a`, are infinite.
  u = jnp.clip(u, 1e-6, 1 - 1e-6)
  return (1 - (1 - u) ** (1 / b)) ** (1 / a)


def noisy_soft_round(z, u, temperature, a):
  """What stands for rounded `z` while there is noise: r(s(z) + n - 1/2).

  Args:
    z: numbers that steps of 1 will round.
    u: uniform in [0, 1), as many.
    temperature: of soft rounding s; r(v) = s^-1(v - 1/2) + 1/2 is the mean of z given v.
    a: shape of the noise n, see `kumaraswamy`.
  """
  v = soft_round(z, 1 / temperature) + kumaraswamy(u, a) - 0.5
  return soft_round_inverse(v - 0.5, 1 / temperature) + 0.5


def hard_soft_round(z, temperature):
  """Rounded `z`, with the gradient of soft rounding."""
  soft = soft_round(z, 1 / temperature)
  return soft + jax.lax.stop_gradient(jnp.round(z) - soft)


def laplace_bits(x, loc, scale):
  """Bits of the integers x under Laplace densities over [x - 1/2, x + 1/2], at most 16 each.

  With d = |x - loc|, the mass is e^(-d/b) sinh(1/2b) beyond 1/2 and 1 - e^(-1/2b) cosh(d/b) within.
  """
  d = jnp.abs(x - loc)
  near = d < 0.5
  # Each branch is given what keeps it finite where the other is taken.
  within = jnp.where(near, d, 0.0)
  beyond = jnp.where(near, 0.5, d)
  inner = -0.5 * (jnp.exp((within - 0.5) / scale) + jnp.exp(-(within + 0.5) / scale))
  outer = (0.5 - beyond) / scale + jnp.log(-0.5 * jnp.expm1(-1 / scale))
  nats = jnp.where(near, jnp.log1p(jnp.maximum(inner, -1 + 1e-7)), outer)
  return jnp.minimum(-nats / jnp.log(2.0), _MOST_BITS)
