"""float32 convolutions whose every bit is defined: one product after another, each one rounded.

A fast convolution sums in the order that suits the machine. Where its result is then rounded to few
bits, the last bit of a sum now and then moves a whole step, and a network with a state carries that
on. These sum as TensorFlow Lite's reference kernels do (on x86, without fused multiply-add): taps
outside, the input channels of a group inside, the bias at the end.
Source: tensorflow/lite/kernels/internal/reference/conv.h, depthwiseconv_float.h.
"""

import jax
import jax.numpy as jnp

# Larger than any product here.
_BOUND = 3e38


def product(x, y):
  """x * y, rounded by itself.

  XLA's CPU compiler makes one operation of a product and a sum, with one rounding. A bound between
  the two that nothing reaches keeps them apart.
  """
  return jnp.minimum(x * y, _BOUND)


def ordered_conv(x, kernel, bias, state=None, *, stride: int = 1, groups: int = 1):
  """`causal_conv` of x [B, T, in] and kernel [width, in / groups, out]: `(y, state)`.

  T is a multiple of `stride`; zeros stand before the start.
  """
  width, per_group, features = kernel.shape
  joined = _after(state, x, width - stride)
  batch, steps = x.shape[0], x.shape[1] // stride
  taps = [joined[:, i : i + (steps - 1) * stride + 1 : stride] for i in range(width)]
  # The terms of a sum first: [width * in / groups, B, T, groups, 1].
  terms = jnp.stack(taps).reshape(width, batch, steps, groups, per_group)
  terms = terms.transpose(0, 4, 1, 2, 3).reshape(-1, batch, steps, groups, 1)
  weights = kernel.reshape(-1, groups, features // groups)

  def add(total, pair):
    return total + product(*pair), None

  zeros = jnp.zeros((batch, steps, groups, features // groups), x.dtype)
  # Unrolled, so that the sum stays in registers for a while.
  total, _ = jax.lax.scan(add, zeros, (terms, weights), unroll=16)
  return total.reshape(batch, steps, features) + bias, joined[:, x.shape[1] :]


def ordered_depthwise_conv(x, kernel, bias, state=None, *, dilation: int = 1):
  """`causal_depthwise_conv` of x [B, T, C] and kernel [width, C]: `(y, state)`."""
  width, steps = kernel.shape[0], x.shape[1]
  joined = _after(state, x, (width - 1) * dilation)
  total = jnp.zeros_like(x)
  for i in range(width):
    total += product(joined[:, i * dilation : i * dilation + steps], kernel[i])
  return total + bias, joined[:, steps:]


def _after(state, x, past: int):
  """`x` after the `past` steps before it."""
  if state is None:
    state = jnp.zeros((x.shape[0], past, x.shape[2]), x.dtype)
  return jnp.concatenate([state, x], axis=1)
