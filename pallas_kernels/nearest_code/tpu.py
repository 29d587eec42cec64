"""Nearest codebook entry on a TPU: scores live in VMEM, of each row only the best of 128 classes.

Terms: N rows, K entries, D features; a block is `block_n` rows by `block_k` entries. Entry k is of
class k mod 128, its lane in a register. While the blocks of entries go by, a row keeps for each
class the least score and the entry that had it: a comparison and two selections a score. After the
last block, once a row, the least of the classes is the nearest entry. Where scores are rough, the
best few of the classes are handed out to be ranked again.

Numerics: products of float32 in six passes (HIGHEST), of bfloat16 and int8 in one, sums in float32
and int32. Ties go to the lowest index: an earlier entry of a class stays, and among classes the
lowest entry wins.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.dispatch import shape_like

CLASSES = 128
# A float32 holds the index of an entry, as a TPU takes no minimum of integers.
MOST_ENTRIES = 1 << 24
# Bytes of one block of rows or of entries in VMEM, where there are two of each: 4 MB of the 16 that
# a kernel gets on v5e, beside 2 MB of scores and 1 MB of classes.
BLOCK_BYTES = 1 << 20
MOST_FEATURES = BLOCK_BYTES // 4 // CLASSES


def fits(codebook: jax.Array) -> bool:
  """Whether the kernel takes such a codebook; rows may be any."""
  return codebook.shape[0] < MOST_ENTRIES and 1 <= codebook.shape[1] <= MOST_FEATURES


def search(
  z: jax.Array,
  codebook: jax.Array,
  bias: jax.Array,
  factor: jax.Array | None,
  candidates: int,
  interpret=False,
) -> jax.Array:
  """The `candidates` entries of least score to each row, from the best of each class; [C, N].

  The score is `bias_k + z . e_k`, the product times `factor_n` where a factor is given.

  Args:
    z: [N, D] and codebook: [K, D], both float32, bfloat16 or int8; D at most MOST_FEATURES.
    bias: float32 [K]. factor: float32 [N] or None.
  """
  (number, features), entries = z.shape, codebook.shape[0]
  if number == 0:
    return jnp.zeros((candidates, 0), jnp.int32)
  fit = BLOCK_BYTES // (features * z.dtype.itemsize) // CLASSES * CLASSES
  block_n = min(1024, fit, pl.cdiv(number, CLASSES) * CLASSES)
  block_k = min(512, fit, pl.cdiv(entries, CLASSES) * CLASSES)
  blocks = pl.cdiv(entries, block_k)
  # Past the last entry lies whatever memory holds; no score there is less than infinity.
  bias = jnp.pad(bias, (0, blocks * block_k - entries), constant_values=jnp.inf)[None]
  operands = [z, codebook, bias] + ([] if factor is None else [factor[None]])
  row_block = pl.BlockSpec((1, block_n), lambda i, k: (0, i))
  in_specs = [
    pl.BlockSpec((block_n, features), lambda i, k: (i, 0)),
    pl.BlockSpec((block_k, features), lambda i, k: (k, 0)),
    pl.BlockSpec((1, block_k), lambda i, k: (0, k)),
    row_block,
  ]
  scratch = [pltpu.VMEM((block_n, CLASSES), jnp.float32) for _ in range(3)]
  bytes_read = z.nbytes + pl.cdiv(number, block_n) * codebook.nbytes
  return pl.pallas_call(
    functools.partial(_kernel, scaled=factor is not None),
    out_shape=shape_like(z, (candidates, number), jnp.int32),
    grid=(pl.cdiv(number, block_n), blocks),
    in_specs=in_specs[: len(operands)],
    out_specs=pl.BlockSpec((candidates, block_n), lambda i, k: (0, i)),
    scratch_shapes=scratch if factor is not None else scratch[:2],
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
    cost_estimate=pl.CostEstimate(
      flops=2 * number * entries * features,
      bytes_accessed=bytes_read + 4 * candidates * number,
      transcendentals=0,
    ),
    interpret=interpret,
    name="nearest_code",
  )(*operands)


def _kernel(z_ref, codebook_ref, bias_ref, *refs, scaled: bool):
  factor_ref, codes_ref, best_ref, group_ref, *factor_scratch = refs if scaled else (None, *refs)
  turn, block_n = pl.program_id(1), z_ref.shape[0]

  @pl.when(turn == 0)
  def _():
    best_ref[...] = jnp.full(best_ref.shape, jnp.inf, jnp.float32)
    group_ref[...] = jnp.zeros(group_ref.shape, jnp.float32)
    if scaled:  # A number a row, from along the lanes to down the rows.
      wide = jnp.broadcast_to(factor_ref[...], (CLASSES, block_n))
      factor_scratch[0][...] = wide.T

  groups = codebook_ref.shape[0] // CLASSES
  for group in range(groups):
    lanes = pl.ds(group * CLASSES, CLASSES)
    score = _product(z_ref[...], codebook_ref[lanes, :])
    if scaled:
      score = score * factor_scratch[0][...]
    score = score + bias_ref[:, lanes]
    less = score < best_ref[...]
    best_ref[...] = jnp.where(less, score, best_ref[...])
    at = (turn * groups + group).astype(jnp.float32)
    group_ref[...] = jnp.where(less, at, group_ref[...])

  @pl.when(turn == pl.num_programs(1) - 1)
  def _():
    best = best_ref[...].T
    entry = group_ref[...].T * CLASSES
    entry += jax.lax.broadcasted_iota(jnp.int32, entry.shape, 0).astype(jnp.float32)
    for place in range(codes_ref.shape[0]):
      least = jnp.min(best, axis=0, keepdims=True)
      first = jnp.min(jnp.where(best == least, entry, 2.0 * MOST_ENTRIES), axis=0, keepdims=True)
      codes_ref[place : place + 1, :] = first.astype(jnp.int32)
      best = jnp.where(entry == first, jnp.inf, best)


def _product(z, entries):
  """z . e, float32 [block_n, CLASSES]."""
  exact = z.dtype == jnp.float32
  product = jax.lax.dot_general(
    z,
    entries,
    (((1,), (1,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST if exact else None,
    preferred_element_type=jnp.int32 if z.dtype == jnp.int8 else jnp.float32,
  )
  return product.astype(jnp.float32)
