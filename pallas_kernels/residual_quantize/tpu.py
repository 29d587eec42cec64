"""Residual quantization on a TPU: what is left of a block of rows stays in VMEM for all stages.

Terms: N rows, Q stages, K entries, D features. The grid goes over blocks of rows and, within, over
stages. A stage finds the nearest entries as `nearest_code` does, of each of 128 classes of entries
the best, and takes them from the rest by a product with one-hot rows as `dequantize` does. Between
the first stage and the last nothing but codebooks is read from HBM and nothing but codes written.

Numerics: products for the search in float32 (HIGHEST); subtraction and sum of exact entries in
float32 in the order of the stages. Ties go to the lowest index.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.dequantize.tpu import LANES, entries_of, padded, rows_of_block
from pallas_kernels.dispatch import shape_like


def residual_quantize(
  z: jax.Array, codebooks: jax.Array, interpret=False
) -> tuple[jax.Array, jax.Array]:
  """As the reference; entries must be finite and one stage must fit, see `dequantize.tpu.fits`."""
  (number, features), stages = z.shape, codebooks.shape[0]
  if number == 0 or stages == 0:
    return jnp.zeros((number, stages), jnp.int32), jnp.zeros((number, features))
  z, codebooks = z.astype(jnp.float32), codebooks.astype(jnp.float32)
  bias = jnp.sum(codebooks**2, axis=-1)
  missing = -codebooks.shape[1] % LANES
  bias = jnp.pad(bias, ((0, 0), (0, missing)), constant_values=jnp.inf)[:, None]
  codebooks = padded(codebooks)
  entries, block_n = codebooks.shape[1], rows_of_block(number, features)
  blocks = pl.cdiv(number, block_n)
  row_block = pl.BlockSpec((block_n, features), lambda i, q: (i, 0))
  codes, total = pl.pallas_call(
    functools.partial(_kernel, groups=entries // LANES),
    out_shape=(
      shape_like(z, (stages, 1, number), jnp.int32),
      shape_like(z, (number, features), jnp.float32),
    ),
    grid=(blocks, stages),
    in_specs=[
      row_block,
      pl.BlockSpec((None, entries, features), lambda i, q: (q, 0, 0)),
      pl.BlockSpec((None, 1, entries), lambda i, q: (q, 0, 0)),
    ],
    out_specs=(pl.BlockSpec((None, 1, block_n), lambda i, q: (q, 0, i)), row_block),
    scratch_shapes=[pltpu.VMEM((block_n, features), jnp.float32)],
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
    cost_estimate=pl.CostEstimate(
      # The search and the product that takes the entries out.
      flops=2 * 2 * number * stages * entries * features,
      bytes_accessed=2 * z.nbytes + blocks * codebooks.nbytes + 4 * number * stages,
      transcendentals=0,
    ),
    interpret=interpret,
    name="residual_quantize",
  )(z, codebooks, bias)
  return codes[:, 0].T, total


def _kernel(z_ref, codebook_ref, bias_ref, codes_ref, total_ref, rest_ref, *, groups: int):
  @pl.when(pl.program_id(1) == 0)
  def _():
    rest_ref[...] = z_ref[...]
    total_ref[...] = jnp.zeros(total_ref.shape, jnp.float32)

  codes = _nearest(rest_ref[...], codebook_ref, bias_ref, groups)
  chosen = entries_of(codes, codebook_ref, groups)
  total_ref[...] += chosen
  rest_ref[...] -= chosen
  codes_ref[...] = codes.T[:1]


def _nearest(rest, codebook_ref, bias_ref, groups: int):
  """Codes of `rest` [block_n, D], int32 [block_n, 128], alike along the lanes."""
  doubled = -2 * rest

  def look(group, carry):
    best, at = carry
    start = pl.ds(pl.multiple_of(group * LANES, LANES), LANES)
    score = jax.lax.dot_general(
      doubled,
      codebook_ref[start, :],
      (((1,), (1,)), ((), ())),
      precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=jnp.float32,
    )
    score += bias_ref[:, start]
    less = score < best
    return jnp.where(less, score, best), jnp.where(less, group.astype(jnp.float32), at)

  shape = rest.shape[0], LANES
  begin = jnp.full(shape, jnp.inf, jnp.float32), jnp.zeros(shape, jnp.float32)
  best, at = jax.lax.fori_loop(0, groups, look, begin)
  entry = at * LANES + jax.lax.broadcasted_iota(jnp.int32, shape, 1).astype(jnp.float32)
  least = jnp.min(best, axis=1, keepdims=True)
  first = jnp.min(jnp.where(best == least, entry, jnp.inf), axis=1, keepdims=True)
  return jnp.broadcast_to(first, shape).astype(jnp.int32)
