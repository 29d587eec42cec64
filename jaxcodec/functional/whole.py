"""Arithmetic on whole numbers for networks whose outputs decide how a stream is read.

Arrays are float32 that hold whole numbers, so that matrix products use the fast paths. All sums
stay below 2^24: each is exact, in any order, with or without fused multiply-add, on any device.
What is no sum or product (roots, quotients, powers) is computed in int32. Nothing here rounds a
float that is not a multiple of a power of two, so two machines cannot disagree.

Each function has the gradient of the real function that it rounds (straight-through), so that the
same code trains and decides.
"""

import jax
import jax.numpy as jnp

# Below this, float32 holds every whole number.
EXACT = 1 << 24
INT8 = 127


@jax.custom_jvp
def straight_through(value, surrogate):
  """`value`, with the gradient of `surrogate`."""
  del surrogate
  return value


@straight_through.defjvp
def _straight_through_jvp(primals, tangents):
  return primals[0], tangents[1]


def whole(x):
  """The nearest whole number: removes noise below one half from what is a whole number."""
  return straight_through(jnp.round(x), x)


def clip(x, limit: int):
  return jnp.clip(x, -limit, limit)


def matmul(x, w, noise=None):
  """x [..., N, D] times w [..., D, M], whole numbers whose products add up to less than 2^24.

  Args:
    noise: added to the product before it is rounded, to show that it changes nothing.
  """
  y = jnp.matmul(x, w, precision=jax.lax.Precision.HIGHEST)
  return whole(y if noise is None else y + noise(y.shape))


def shift(x, bits: int):
  """x / 2^bits, rounded to the nearest, halves up."""
  scaled = x * 2.0**-bits
  return straight_through(jnp.floor(scaled + 0.5), scaled)


def quotient(x, y):
  """x / y rounded to the nearest, halves up; y > 0, both below 2^29."""
  a, b = x.astype(jnp.int32), y.astype(jnp.int32)
  return straight_through(((2 * a + b) // (2 * b)).astype(jnp.float32), x / y)


def root(n):
  """floor(sqrt(n)) of int32 n in 0..2^30 - 1, bit by bit."""
  result = jnp.zeros_like(n)
  for bit in reversed(range(15)):
    trial = result + (1 << bit)
    result = jnp.where(trial * trial <= n, trial, result)
  return result


def rms_norm(x, unit: int):
  """x / rms(x) in units of 1 / `unit` over the last axis, clipped to 8 bits.

  |x| is at most 2047 and there are at most 256 features, so that the squares add up below 2^30.
  """
  size = x.shape[-1]
  integers = x.astype(jnp.int32)
  length = jnp.maximum(root((integers * integers).sum(axis=-1, keepdims=True)), 1)
  factor = round(unit * size**0.5)
  value = (2 * factor * integers + length) // (2 * length)
  real = jnp.sqrt((x * x).sum(axis=-1, keepdims=True) + 1.0)
  return clip(straight_through(value.astype(jnp.float32), factor * x / real), INT8)


def power_of_half(x, steps_per_octave: int):
  """About 2^15 * 2^(-x / steps_per_octave) of int32 x >= 0, as int32; 0 from 16 octaves on.

  Within an octave, with f in 0..31, it is 32768 - 672 f + 5 f^2: within 0.7% of the power, falling
  without a jump where octaves meet.
  """
  octave, rest = x // steps_per_octave, x % steps_per_octave
  f = rest * (32 // steps_per_octave)
  return (32768 - 672 * f + 5 * f * f) >> jnp.minimum(octave, 16)
