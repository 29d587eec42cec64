"""x @ dequantized weights for TPU.

A grid step unpacks a tile of weights, at most 1024 x 512: 2 MB as float32, with codes and the
rounded weights beside it some 5 MB of VMEM, while the words that come in are 0.25 MB for 4 bits.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.affine_quant.pack import fields_of, run_length
from pallas_kernels.attention.tpu import INTERPRET as INTERPRET
from pallas_kernels.dispatch import shape_like
from pallas_kernels.quant_matmul import reference
from pallas_kernels.quant_matmul.reference import INTERLEAVE

# Rows of x, weights' rows (features) and columns of a tile at most.
ROWS, FEATURES, COLUMNS = 256, 1024, 512


def quant_matmul(x, words, scale, offset, *, bits: int, interpret=False):
  """As `reference.quant_matmul`."""
  (rows, length), columns = x.shape, words.shape[1]
  groups = scale.shape[0]
  group, run = length // groups, run_length(bits, INTERLEAVE)
  if groups > 1 and group % 8:
    # A group would begin inside a register.
    return reference.quant_matmul(x, words, scale, offset, bits=bits)
  unit = run if groups == 1 else math.lcm(run, group)
  depth = min(unit * max(FEATURES // unit, 1), -(-length // unit) * unit)
  steps = -(-length // depth)
  fill = steps * depth - length
  # x is zero where the weights have no row, so that any scale will do there.
  x = jnp.pad(x, ((0, 0), (0, fill)))
  words = jnp.pad(words, ((0, steps * depth * bits // 32 - words.shape[0]), (0, 0)))
  here = 1 if groups == 1 else depth // group
  sides = [_groups(s, steps, here, columns) for s in (scale, offset) if s is not None]
  tile_rows, tile_columns = min(ROWS, rows), min(COLUMNS, columns)
  grid = -(-rows // tile_rows), -(-columns // tile_columns), steps
  side = pl.BlockSpec(
    (1, here, tile_columns),
    (lambda m, n, k: (0, 0, n)) if groups == 1 else (lambda m, n, k: (k, 0, n)),
  )
  call = pl.pallas_call(
    functools.partial(_kernel, bits=bits, signed=offset is None),
    out_shape=shape_like(x, (rows, columns), jnp.float32),
    grid=grid,
    in_specs=[
      pl.BlockSpec((tile_rows, depth), lambda m, n, k: (m, k)),
      pl.BlockSpec((depth * bits // 32, tile_columns), lambda m, n, k: (k, n)),
      *[side] * len(sides),
    ],
    out_specs=pl.BlockSpec((tile_rows, tile_columns), lambda m, n, k: (m, n)),
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
    cost_estimate=pl.CostEstimate(
      flops=2 * rows * length * columns,
      transcendentals=0,
      bytes_accessed=grid[0] * (words.size * 4 + sum(s.size * s.dtype.itemsize for s in sides))
      + grid[1] * x.size * x.dtype.itemsize
      + rows * columns * 4,
    ),
    interpret=interpret,
  )
  return call(x, words, *sides)


def _groups(s, steps, here, columns):
  """Scales [steps or 1, groups of a step, N], zero past the last group."""
  s = jnp.broadcast_to(s, (s.shape[0], columns))
  count = here if s.shape[0] == 1 else steps * here
  return jnp.pad(s, ((0, count - s.shape[0]), (0, 0))).reshape(-1, here, columns)


def _kernel(x_ref, words_ref, scale_ref, *refs, bits, signed):
  *offset_ref, y_ref = refs

  @pl.when(pl.program_id(2) == 0)
  def _():
    y_ref[...] = jnp.zeros_like(y_ref)

  codes = fields_of(words_ref[...], bits, INTERLEAVE)
  if signed:
    codes = codes << 32 - bits >> 32 - bits
  depth, columns = codes.shape
  scale = scale_ref[0]
  w = codes.astype(jnp.float32).reshape(scale.shape[0], depth // scale.shape[0], columns)
  w = w * scale.astype(jnp.float32)[:, None]
  if offset_ref:
    w = w + offset_ref[0][0].astype(jnp.float32)[:, None]
  x = x_ref[...]
  precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
  y_ref[...] += jax.lax.dot_general(
    x,
    w.reshape(depth, columns).astype(x.dtype),
    (((1,), (0,)), ((), ())),
    precision=precision,
    preferred_element_type=jnp.float32,
  )
