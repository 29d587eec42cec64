"""x @ dequantized weights for TPU.

A grid step unpacks a tile of weights, at most 512 x 1024: 2 MB as float32, with codes and the
rounded weights beside it some 5 MB of VMEM; 512 rows of the product take 4 MB more. Larger tiles
would read `x` and the words less often, and not fit the 16 MB that a kernel gets on v5e.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.affine_quant.tiles import by_tile, codes_of, dequantized, scale_spec, tiles
from pallas_kernels.dispatch import shape_like
from pallas_kernels.quant_matmul import reference

# Rows of x, weights' rows (features) and columns of a tile at most.
ROWS, FEATURES, COLUMNS = 512, 512, 1024


def quant_matmul(x, words, scale, offset, *, bits: int, interpret=False):
  """As `reference.quant_matmul`."""
  (rows, length), columns = x.shape, words.shape[1]
  plan = tiles(length, scale.shape[0], bits, FEATURES)
  if plan is None:
    return reference.quant_matmul(x, words, scale, offset, bits=bits)
  # x is zero where the weights have no row, so that any scale will do there.
  x = jnp.pad(x, ((0, 0), (0, plan.length - length)))
  words = jnp.pad(words, ((0, plan.length * bits // 32 - words.shape[0]), (0, 0)))
  sides = [by_tile(s, plan) for s in (scale, offset) if s is not None]
  tile_rows, tile_columns = min(ROWS, rows), min(COLUMNS, columns)
  grid = -(-rows // tile_rows), -(-columns // tile_columns), plan.steps
  side_specs = [scale_spec(s, plan, tile_columns, lambda m, n, k: (k, n)) for s in sides]
  call = pl.pallas_call(
    functools.partial(_kernel, bits=bits),
    out_shape=shape_like(x, (rows, columns), jnp.float32),
    grid=grid,
    in_specs=[
      pl.BlockSpec((tile_rows, plan.depth), lambda m, n, k: (m, k)),
      pl.BlockSpec((plan.depth * bits // 32, tile_columns), lambda m, n, k: (k, n)),
      *side_specs,
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


def _kernel(x_ref, words_ref, scale_ref, *refs, bits):
  *offset_ref, y_ref = refs

  @pl.when(pl.program_id(2) == 0)
  def _():
    y_ref[...] = jnp.zeros_like(y_ref)

  codes = codes_of(words_ref[...], bits, signed=not offset_ref)
  offset = offset_ref[0][0] if offset_ref else None
  x = x_ref[...]
  y_ref[...] += jax.lax.dot_general(
    x,
    dequantized(codes, scale_ref[0], offset).astype(x.dtype),
    (((1,), (0,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
    preferred_element_type=jnp.float32,
  )
