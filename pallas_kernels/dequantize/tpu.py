"""Sum of coded entries on a TPU: products of one-hot rows with the codebook, stage after stage.

Terms: N rows, Q stages, K entries, D features. The grid goes over blocks of rows and, within, over
stages; the codebook of one stage and the sum of one block lie in VMEM.

Numerics: exact. A float32 is the sum of three bfloat16; each product with a one-hot row has one
term that is not zero, and the three parts add up without rounding.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.dispatch import shape_like

LANES = 128
# The codebook of a stage in VMEM, of which there are two at a time: 8 MB of the 16 that a kernel
# gets on v5e.
MOST_BYTES = 4 << 20
# Likewise of one block of rows in float32, of which there are up to eight.
BLOCK_BYTES = 512 << 10


def fits(codebooks: jax.Array) -> bool:
  """Whether a kernel can hold one stage: entries and at least 128 rows of their size."""
  _, entries, features = codebooks.shape
  bytes_ = 4 * pl.cdiv(entries, LANES) * LANES * features
  return bytes_ <= MOST_BYTES and 4 <= 4 * LANES * features <= BLOCK_BYTES


def rows_of_block(number: int, features: int) -> int:
  fit = BLOCK_BYTES // (4 * features) // LANES * LANES
  return min(512, fit, pl.cdiv(number, LANES) * LANES)


def padded(codebooks: jax.Array) -> jax.Array:
  """Entries of zeros up to a multiple of 128: a product with what memory holds could be NaN."""
  return jnp.pad(codebooks, ((0, 0), (0, -codebooks.shape[1] % LANES), (0, 0)))


def dequantize(codes: jax.Array, codebooks: jax.Array, interpret=False) -> jax.Array:
  """As the reference; entries must be finite."""
  (number, stages), dtype = codes.shape, codebooks.dtype
  features = codebooks.shape[-1]
  if number == 0 or stages == 0:
    return jnp.zeros((number, features), dtype)
  codebooks = padded(codebooks)
  entries, block_n = codebooks.shape[1], rows_of_block(number, features)
  blocks = pl.cdiv(number, block_n)
  total = pl.pallas_call(
    functools.partial(_kernel, groups=entries // LANES),
    out_shape=shape_like(codebooks, (number, features), jnp.float32),
    grid=(blocks, stages),
    in_specs=[
      pl.BlockSpec((None, 1, block_n), lambda i, q: (q, 0, i)),
      pl.BlockSpec((None, entries, features), lambda i, q: (q, 0, 0)),
    ],
    out_specs=pl.BlockSpec((block_n, features), lambda i, q: (i, 0)),
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
    cost_estimate=pl.CostEstimate(
      flops=2 * number * stages * entries * features,
      bytes_accessed=codes.nbytes + blocks * codebooks.nbytes + 4 * number * features,
      transcendentals=0,
    ),
    interpret=interpret,
    name="dequantize",
  )(codes.T[:, None], codebooks)
  return total.astype(dtype)


def _kernel(codes_ref, codebook_ref, total_ref, *, groups: int):
  @pl.when(pl.program_id(1) == 0)
  def _():
    total_ref[...] = jnp.zeros(total_ref.shape, jnp.float32)

  wide = jnp.broadcast_to(codes_ref[...], (LANES, codes_ref.shape[1]))
  total_ref[...] += entries_of(wide.T, codebook_ref, groups)


def entries_of(codes, codebook_ref, groups: int):
  """The entries, float32 [block_n, D], of `codes` [block_n, 128], alike along the lanes."""
  lane = jax.lax.broadcasted_iota(jnp.int32, codes.shape, 1)

  def add(group, chosen):
    start = pl.multiple_of(group * LANES, LANES)
    one_hot = (codes == lane + start).astype(jnp.bfloat16)
    for part in _parts(codebook_ref[pl.ds(start, LANES), :]):
      chosen += jax.lax.dot(one_hot, part, preferred_element_type=jnp.float32)
    return chosen

  zeros = jnp.zeros((codes.shape[0], codebook_ref.shape[1]), jnp.float32)
  return jax.lax.fori_loop(0, groups, add, zeros)


def _parts(entries):
  """Arrays of bfloat16 whose sum is `entries`."""
  parts, rest = [], entries.astype(jnp.float32)
  for _ in range(1 if entries.dtype == jnp.bfloat16 else 3):
    parts.append(rest.astype(jnp.bfloat16))
    rest = rest - parts[-1].astype(jnp.float32)
  return parts
