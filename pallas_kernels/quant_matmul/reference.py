"""Unpack, dequantize, multiply: the answer that the kernel must give."""

import jax
import jax.numpy as jnp

from pallas_kernels.affine_quant import affine_dequantize, unpack_bits

INTERLEAVE = 8


def weights(words, scale, offset, *, length: int, bits: int):
  """float32 weights [K, N] of packed codes, K = length."""
  signed = offset is None
  codes = unpack_bits(words, length, bits, axis=0, interleave=INTERLEAVE, signed=signed)
  return affine_dequantize(codes, scale, offset)


def quant_matmul(x, words, scale, offset, *, bits: int):
  """float32 [M, N] product of `x` [M, K] with the weights, which are rounded to the type of `x`."""
  w = weights(words, scale, offset, length=x.shape[1], bits=bits).astype(x.dtype)
  highest = jax.lax.Precision.HIGHEST
  return jnp.matmul(x, w, precision=highest, preferred_element_type=jnp.float32)
