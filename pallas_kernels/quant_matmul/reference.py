"""Unpack, dequantize, multiply: the answer that the kernel must give."""

import jax
import jax.numpy as jnp

from pallas_kernels.affine_quant.reference import dequantize_words


def quant_matmul(x, words, scale, offset, *, bits: int):
  """float32 [M, N] product of `x` [M, K] with the weights, which are rounded to the type of `x`."""
  w = dequantize_words(words, scale, offset, length=x.shape[1], bits=bits, dtype=x.dtype)
  highest = jax.lax.Precision.HIGHEST
  return jnp.matmul(x, w, precision=highest, preferred_element_type=jnp.float32)
