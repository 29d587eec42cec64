"""Gradients through affine quantization: straight-through, and LSQ's for a trained scale.

The forward result is `affine_dequantize(affine_quantize(x))` in the type of `x`.
"""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels import checks
from pallas_kernels.affine_quant.op import gathered, limits, split


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def fake_quant(x: jax.Array, scale: jax.Array, offset: jax.Array | None, bits: int) -> jax.Array:
  """`x` quantized and dequantized. Gradient: identity to `x` where its code is not clipped.

  What is within half a step of the outermost codes is not clipped, so of a range taken from `x`
  itself nothing is. Scale and offset get no gradient; `lsq` trains a scale.

  Args:
    x: any float type.
    scale: positive, of the rank of `x`; see `affine_range`.
    offset: as scale, or None for signed codes.
    bits: 2 to 8; 1, too, of codes with an offset.

  Raises:
    ValueError: if `x` is of no float type, or the scale's dimensions do not divide its own.
  """
  checks.floating(x=x)
  return _rounded(x, scale, offset, bits)[0]


@fake_quant.defjvp
def _fake_quant_jvp(bits, primals, tangents):
  x, scale, offset = primals
  y, inside = _rounded(x, scale, offset, bits)
  return y, jnp.where(inside, tangents[0], 0).astype(y.dtype)


def _rounded(x, scale, offset, bits):
  low, high = limits(bits, signed=offset is None)
  parts, shape = split(x.astype(jnp.float32), scale, offset)
  scale = scale.reshape(shape)
  offset = 0.0 if offset is None else offset.reshape(shape)
  steps = jnp.round((parts - offset) / scale)
  y = jnp.clip(steps, low, high) * scale + offset
  inside = (steps >= low) & (steps <= high)
  return y.reshape(x.shape).astype(x.dtype), inside.reshape(x.shape)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def lsq(x: jax.Array, scale: jax.Array, bits: int, signed: bool = True) -> jax.Array:
  """`x` quantized with a trained scale: scale * clip(round(x / scale), low, high).

  Gradient: to `x` the identity strictly inside (low, high) and zero elsewhere; to the scale
  g * (round(x / s) - x / s) inside, g * low or g * high outside, summed over each block, where
  g = 1 / sqrt(N * high) for N entries a block.

  Args:
    x: any float type.
    scale: positive, of the rank of `x`; start it from `lsq_scale`.
    bits: 2 to 8.
    signed: codes from -2^(bits-1), or from 0 as after a ReLU.

  Source: Esser et al., https://arxiv.org/abs/1902.08153, equations 1 to 3 and section 2.2.

  Raises:
    ValueError: if `x` is of no float type, or the scale's dimensions do not divide its own.
  """
  checks.floating(x=x)
  low, high = limits(bits, signed)
  parts, shape = split(x.astype(jnp.float32), scale)
  s = scale.astype(jnp.float32).reshape(shape)
  return (jnp.clip(jnp.round(parts / s), low, high) * s).reshape(x.shape).astype(x.dtype)


@lsq.defjvp
def _lsq_jvp(bits, signed, primals, tangents):
  x, scale = primals
  low, high = limits(bits, signed)
  parts, shape = split(x.astype(jnp.float32), scale)
  s = scale.astype(jnp.float32).reshape(shape)
  steps = parts / s
  inside = (steps > low) & (steps < high)
  codes = jnp.clip(jnp.round(steps), low, high)
  slope = jnp.where(inside, codes - steps, jnp.where(steps <= low, low, high))
  # N counts the entries that share a scale.
  balance = (max(x.size // max(scale.size, 1), 1) * high) ** -0.5
  dx = split(tangents[0].astype(jnp.float32), scale)[0]
  ds = tangents[1].astype(jnp.float32).reshape(shape)
  dy = jnp.where(inside, dx, 0) + balance * slope * ds
  y = (codes * s).reshape(x.shape).astype(x.dtype)
  return y, dy.reshape(x.shape).astype(x.dtype)


def lsq_scale(x: jax.Array, num_blocks: tuple[int, ...], bits: int, signed: bool = True):
  """LSQ's first scale, 2 mean|x| / sqrt(high) of each block; 1 where a block is zero.

  Args:
    x: any float type.
    num_blocks: the scale's shape; each number divides that dimension of `x`.
    bits: 2 to 8.
    signed: as in `lsq`.

  Raises:
    ValueError: if the blocks do not divide `x`.
  """
  fits = len(num_blocks) == x.ndim
  if not fits or any(b < 1 or n % b for n, b in zip(x.shape, num_blocks, strict=True)):
    raise ValueError(f"data {x.shape} cannot be split in {num_blocks} blocks")
  parts, axes = gathered(x, num_blocks)
  mean = jnp.abs(parts).mean(axes)
  return jnp.where(mean == 0, 1.0, 2 * mean * limits(bits, signed)[1] ** -0.5)
