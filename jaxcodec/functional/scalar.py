"""Quantization number by number: finite levels, alone and residual, and learned values.

Shapes: z [..., D], one number of `levels` each; codes int32 [...], mixed radix with the first
number as the lowest digit. A number halfway between two levels goes to the lower one.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def check_levels(levels: tuple[int, ...], least: int = 2) -> None:
  """Raises ValueError unless each is at least `least` and their product is below 2^31."""
  if not levels or min(levels) < least or math.prod(levels) >= 1 << 31:
    raise ValueError(f"levels must be {least} or more with a product below 2^31, got {levels}")


def _round(x):
  """The nearest integer, the lower of two."""
  return jnp.ceil(x - 0.5)


def pack_digits(digits, levels: tuple[int, ...]):
  """int32 [..., D], each in [0, L_d), to one number [...]: digit_0 + L_0 digit_1 + ..."""
  basis = np.cumprod((1, *levels[:-1])).astype(np.int32)
  return (digits * basis).sum(axis=-1).astype(jnp.int32)


def unpack_digits(codes, levels: tuple[int, ...]):
  """The digits int32 [..., D] of codes [...]."""
  basis = np.cumprod((1, *levels[:-1])).astype(np.int32)
  return codes[..., None] // basis % np.asarray(levels, np.int32)


def fsq_bound(z, levels: tuple[int, ...]):
  """`z` squeezed to where its rounding has L_d values, about [-L/2, L/2].

  tanh(z + shift) half - offset with half = (L - 1) 1.001 / 2, offset 1/2 for even L, and the shift
  that takes 0 to 0. Source: FSQ, https://arxiv.org/abs/2309.15505, appendix A.1.
  """
  sizes = np.asarray(levels, np.float64)
  half = (sizes - 1) * 1.001 / 2
  offset = np.where(sizes % 2 == 0, 0.5, 0.0)
  shift = np.arctanh(offset / half)
  return jnp.tanh(z + jnp.float32(shift)) * jnp.float32(half) - jnp.float32(offset)


def fsq_encode(z, levels: tuple[int, ...]):
  """Codes of z [..., D]: int32 [...]."""
  digits = _round(fsq_bound(z, levels)).astype(jnp.int32) + np.asarray(levels, np.int32) // 2
  return pack_digits(digits, levels)


def fsq_decode(codes, levels: tuple[int, ...]):
  """Values in [-1, 1] of codes: [..., D], (digit - L // 2) / (L // 2); zeros for -1."""
  width = np.asarray(levels, np.int32) // 2
  digits = unpack_digits(jnp.maximum(codes, 0), levels)
  values = (digits - width).astype(jnp.float32) / width.astype(np.float32)
  return jnp.where((codes >= 0)[..., None], values, 0)


def residual_fsq_scales(levels: tuple[int, ...], stages: int) -> np.ndarray:
  """The step of each stage, float32 [Q, D]: L^-q."""
  return np.asarray(levels, np.float32) ** -np.arange(stages, dtype=np.float32)[:, None]


def soft_clamp(z, levels: tuple[int, ...]):
  """`z` squeezed into the reach of residual FSQ, L / (L - 1) either way."""
  reach = 1 + 1 / (np.asarray(levels, np.float32) - 1)
  return jnp.tanh(z / reach) * reach


def residual_fsq_encode(z, levels: tuple[int, ...], stages: int):
  """Codes [..., Q] of z [..., D] from `soft_clamp`: stage q has the levels in steps L^-q as fine.

  The L levels of a stage are evenly spaced in [-1, 1], both ends among them, so an even number of
  levels leaves zero out. Source: symmetric FSQ, https://arxiv.org/abs/2411.19842, section 3.2.
  """
  steps = np.asarray(levels, np.float32) - 1

  def stage(residual, scale):
    place = (jnp.clip(residual / scale, -1, 1) + 1) / 2 * steps
    codes = pack_digits(_round(place).astype(jnp.int32), levels)
    return residual - _scaled(codes, levels, scale), codes

  _, codes = jax.lax.scan(stage, z, residual_fsq_scales(levels, stages))
  return jnp.moveaxis(codes, 0, -1)


def residual_fsq_decode(codes, levels: tuple[int, ...]):
  """Sum over the first stages of codes [..., Q]: [..., D]; a code of -1 adds nothing."""

  def add(total, stage):
    codes, scale = stage
    value = _scaled(jnp.maximum(codes, 0), levels, scale)
    return total + jnp.where((codes >= 0)[..., None], value, 0), None

  scales = residual_fsq_scales(levels, codes.shape[-1])
  zeros = jnp.zeros((*codes.shape[:-1], len(levels)), jnp.float32)
  total, _ = jax.lax.scan(add, zeros, (jnp.moveaxis(codes, -1, 0), scales))
  return total


def _scaled(codes, levels: tuple[int, ...], scale):
  """Values in [-scale, scale] of the digits: scale (2 digit / (L - 1) - 1)."""
  steps = np.asarray(levels, np.float32) - 1
  digits = unpack_digits(codes, levels).astype(jnp.float32)
  value = (digits * 2 - steps) / steps * scale
  # Rounded on its own: a product fused into a sum would depend on the program around it.
  return jax.lax.optimization_barrier(value)


def nearest_value(z, values):
  """Index int32 [..., D] of the value [D, L] nearest to each number; ties to the lowest."""
  distance = jnp.abs(z[..., None] - values)
  return jnp.argmin(distance, axis=-1).astype(jnp.int32)


def lookup_values(codes, values):
  """Values [..., D] of codes [..., D] from [D, L]; 0 for a code of -1."""
  chosen = values[jnp.arange(values.shape[0]), jnp.maximum(codes, 0)]
  return jnp.where(codes >= 0, chosen, 0)
