"""Integer arithmetic of 8-bit networks, as TensorFlow Lite's reference kernels define it.

A quantized value is scale * (q - zero_point) with q in -128..127. Here such arrays are centred:
int32 q - zero_point, so that zeros are zeros. A real factor is a pair of int32: a multiplier in
2^30..2^31 - 1, and a shift, factor = multiplier * 2^(shift - 31). 64-bit products are made of
16-bit halves, so that nothing here needs x64.
Source: tensorflow/lite/kernels/internal/common.cc and reference/; gemmlowp, fixedpoint.h.
"""

import jax.numpy as jnp
import numpy as np

from jaxcodec.functional.conv import causal_conv, causal_depthwise_conv, conv_transpose

_LOWEST, _HIGHEST = -128, 127
# A centred value is at most 255, a weight 128; float32 counts to 2^24 without a gap.
_MOST_TERMS = 2**24 // (255 * 128)


def fixed_point(factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Multipliers and shifts of positive float64 factors, as QuantizeMultiplier finds them."""
  fraction, shift = np.frexp(np.asarray(factor, np.float64))
  multiplier = np.floor(fraction * 2.0**31 + 0.5).astype(np.int64)
  over = multiplier == 2**31
  multiplier, shift = np.where(over, 2**30, multiplier), shift + over
  vanishes = shift < -31
  multiplier, shift = np.where(vanishes, 0, multiplier), np.where(vanishes, 0, shift)
  return multiplier.astype(np.int32), shift.astype(np.int32)


def high_product(a, b):
  """floor((a * b + 2^30) / 2^31) of int32 arrays, b not negative."""
  half = jnp.uint32(0xFFFF)
  a_low, b_low = a.view(jnp.uint32) & half, b.view(jnp.uint32) & half
  a_high, b_high = a >> 16, b >> 16
  low = a_low * b_low
  middle = a_high * b_low.view(jnp.int32) + (low >> 16).view(jnp.int32)
  other = (middle & 0xFFFF) + a_low.view(jnp.int32) * b_high
  high = a_high * b_high + (middle >> 16) + (other >> 16)
  low = (other.view(jnp.uint32) << 16) | (low & half)
  rounded = low + jnp.uint32(2**30)
  high += (rounded < low).astype(jnp.int32)
  return (high << 1) | (rounded >> 31).view(jnp.int32)


def rounding_shift(x, exponent):
  """x / 2^exponent of int32 arrays, to the nearest; halves away from zero."""
  mask = (1 << exponent) - 1
  threshold = (mask >> 1) + (x < 0)
  return (x >> exponent) + ((x & mask) > threshold)


def rescale(x, multiplier, shift):
  """int32 x times a factor, rounded twice: MultiplyByQuantizedMultiplier."""
  x = high_product(x << jnp.maximum(shift, 0), jnp.broadcast_to(multiplier, x.shape))
  return rounding_shift(x, jnp.maximum(-shift, 0))


def clip_to_int8(x, zero_point):
  """Centred int32 within what 8 bits hold."""
  return jnp.clip(x, _LOWEST - zero_point, _HIGHEST - zero_point)


def quantize(x, scale, zero_point):
  """float32 to centred int32, halves away from zero."""
  x = x / scale
  whole = jnp.trunc(x)
  x = whole + jnp.sign(x) * (jnp.abs(x - whole) >= 0.5)
  return clip_to_int8(jnp.clip(x, -512, 512).astype(jnp.int32), zero_point)


def leaky_relu(x, multipliers, shifts, zero_point):
  """Centred int32 times the first factor where x >= 0, the second elsewhere."""
  up = rescale(x, multipliers[0], shifts[0])
  down = rescale(x, multipliers[1], shifts[1])
  return clip_to_int8(jnp.where(x >= 0, up, down), zero_point)


def add(x, y, multipliers, shifts, zero_point):
  """Sum of two centred arrays of different scales: factors of x, of y and of the sum.

  The first two are relative to twice the larger scale, at 20 more bits.
  """
  x = rescale(x << 20, multipliers[0], shifts[0])
  y = rescale(y << 20, multipliers[1], shifts[1])
  return clip_to_int8(rescale(x + y, multipliers[2], shifts[2]), zero_point)


def integer_conv(x, kernel, bias, state=None, *, stride: int = 1, groups: int = 1):
  """`causal_conv` of centred int32 x and int8 kernel: `(int32 [B, T / stride, out], state)`.

  It runs in float32, where every product and every sum of them is a whole number below 2^24, so the
  order of the sum and a backend's use of bfloat16 or TF32 for the factors change nothing.

  Raises:
    ValueError: if there are too many products in a sum for that.
  """
  _require_exact(kernel.shape[0] * kernel.shape[1])
  y, state = causal_conv(
    x.astype(jnp.float32),
    kernel.astype(jnp.float32),
    None,
    state,
    stride=stride,
    groups=groups,
    final=False,
  )
  return y.astype(jnp.int32) + bias, state


def integer_depthwise_conv(x, kernel, bias, state=None, *, dilation: int = 1):
  """`causal_depthwise_conv` of centred int32 x and int8 kernel."""
  return causal_depthwise_conv(x, kernel.astype(jnp.int32), bias, state, dilation=dilation)


def integer_conv_transpose(x, kernel, bias, *, stride: int, groups: int = 1):
  """`conv_transpose` of centred int32 x and int8 kernel [width, in, out], untrimmed."""
  _require_exact(-(-kernel.shape[0] // stride) * kernel.shape[1])
  kernel = kernel.astype(jnp.float32)
  y = conv_transpose(x.astype(jnp.float32), kernel, stride=stride, groups=groups)
  return y.astype(jnp.int32) + bias


def _require_exact(terms: int) -> None:
  if terms > _MOST_TERMS:
    raise ValueError(f"{terms} products of 8 bits do not add up exactly in float32")
