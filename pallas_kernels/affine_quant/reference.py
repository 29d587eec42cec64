"""Packed weights in plain JAX: the answer that the kernels must give, and their gradient."""

from pallas_kernels.affine_quant.op import affine_dequantize, affine_quantize
from pallas_kernels.affine_quant.pack import pack_bits, unpack_bits
from pallas_kernels.affine_quant.tiles import INTERLEAVE


def quantize_words(x, scale, offset, *, bits: int):
  """Words of the codes of `x` [K, N], packed along K."""
  codes = affine_quantize(x, scale, offset, bits=bits)
  return pack_bits(codes, bits, axis=0, interleave=INTERLEAVE)


def dequantize_words(words, scale, offset, *, length: int, bits: int, dtype):
  """Weights [K, N] in `dtype`, K = length."""
  signed = offset is None
  codes = unpack_bits(words, length, bits, axis=0, interleave=INTERLEAVE, signed=signed)
  return affine_dequantize(codes, scale, offset).astype(dtype)
