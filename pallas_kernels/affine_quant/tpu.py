"""Packing and unpacking of weights [K, N] for TPU, each in one pass.

XLA writes expanded scales and unpacked codes to memory before it combines them: for 4 bits in
groups of 128 ten times the bytes (docs/kernels.md). A tile is at most 512 x 512, 1 MB as float32.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.affine_quant import reference
from pallas_kernels.affine_quant.op import limits
from pallas_kernels.affine_quant.pack import num_words, words_of
from pallas_kernels.affine_quant.tiles import (
  INTERLEAVE,
  against,
  by_tile,
  codes_of,
  dequantized,
  scale_spec,
  tiles,
)
from pallas_kernels.dispatch import shape_like

DEPTH, COLUMNS = 512, 512


def quantize_words(x, scale, offset, *, bits: int, interpret=False):
  """As `reference.quantize_words`."""
  length = x.shape[0]
  plan = tiles(length, scale.shape[0], bits, DEPTH)
  if plan is None:
    return reference.quantize_words(x, scale, offset, bits=bits)
  x = jnp.pad(x, ((0, plan.length - length), (0, 0)))
  out = shape_like(x, (plan.length * bits // 32, x.shape[1]), jnp.int32)
  kernel = functools.partial(_quantize_kernel, bits=bits, length=length)
  words = _call(kernel, x, out, scale, offset, plan, interpret)
  return words[: num_words(length, bits, INTERLEAVE)]


def dequantize_words(words, scale, offset, *, length: int, bits: int, dtype, interpret=False):
  """As `reference.dequantize_words`."""
  plan = tiles(length, scale.shape[0], bits, DEPTH)
  if plan is None:
    return reference.dequantize_words(words, scale, offset, length=length, bits=bits, dtype=dtype)
  words = jnp.pad(words, ((0, plan.length * bits // 32 - words.shape[0]), (0, 0)))
  out = shape_like(words, (plan.length, words.shape[1]), dtype)
  kernel = functools.partial(_dequantize_kernel, bits=bits)
  return _call(kernel, words, out, scale, offset, plan, interpret)[:length]


def _call(kernel, x, out, scale, offset, plan, interpret):
  """`kernel` on tiles of `x`, each with its scales, to tiles of `out`."""
  columns = min(COLUMNS, x.shape[1])
  sides = [by_tile(s, plan) for s in (scale, offset) if s is not None]

  def place(k, n):
    return k, n

  arrays = [x, *sides]
  call = pl.pallas_call(
    kernel,
    out_shape=out,
    grid=(plan.steps, -(-x.shape[1] // columns)),
    in_specs=[
      pl.BlockSpec((x.shape[0] // plan.steps, columns), place),
      *[scale_spec(s, plan, columns, place) for s in sides],
    ],
    out_specs=pl.BlockSpec((out.shape[0] // plan.steps, columns), place),
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
    cost_estimate=pl.CostEstimate(
      flops=2 * plan.length * x.shape[1],
      transcendentals=0,
      bytes_accessed=sum(a.size * a.dtype.itemsize for a in arrays) + out.size * out.dtype.itemsize,
    ),
    interpret=interpret,
  )
  return call(*arrays)


def _quantize_kernel(x_ref, scale_ref, *refs, bits, length):
  *offset_ref, words_ref = refs
  low, high = limits(bits, signed=not offset_ref)
  x, scale = against(x_ref[...], scale_ref[0])
  if offset_ref:
    x = x - against(x_ref[...], offset_ref[0][0])[1]
  codes = jnp.clip(jnp.round(x / scale), low, high).astype(jnp.int32).reshape(x_ref.shape)
  row = pl.program_id(0) * x_ref.shape[0] + jax.lax.broadcasted_iota(jnp.int32, codes.shape, 0)
  words_ref[...] = words_of(jnp.where(row < length, codes, 0), bits, INTERLEAVE)


def _dequantize_kernel(words_ref, scale_ref, *refs, bits):
  *offset_ref, x_ref = refs
  codes = codes_of(words_ref[...], bits, signed=not offset_ref)
  offset = offset_ref[0][0] if offset_ref else None
  x_ref[...] = dequantized(codes, scale_ref[0], offset).astype(x_ref.dtype)
