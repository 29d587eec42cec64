"""Decode attention for TPU: a grid step is a page of one row, all its heads.

Codes come in as words and are unpacked in registers. Keys are dequantized before their product;
values stay integers, exact in bfloat16, as their scale can multiply the weight of the token.
Pages past a row's end are neither fetched nor computed.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.affine_quant.pack import fields_of
from pallas_kernels.attention.reference import Rule
from pallas_kernels.decode_attention.pages import INTERLEAVE, Pages
from pallas_kernels.dispatch import shape_like


def decode_attention(q, pages: Pages, table, lengths, *, rule: Rule, interpret=False):
  """As `reference.decode_attention`."""
  batch, query_heads, features = q.shape
  number, heads = pages.k_words.shape[:2]
  q = q.reshape(batch, heads, query_heads // heads, features)
  steps, size = table.shape[1], pages.size

  def row(b, *_):
    return b, 0, 0, 0

  def page(b, step, table, lengths):
    last = jnp.maximum(jax.lax.div(lengths[b] - 1, jnp.int32(size)), 0)
    index = table[b, jnp.minimum(jnp.minimum(step, last), steps - 1)]
    return jnp.clip(index, 0, number - 1), 0, 0, 0

  tokens = batch * steps * size
  call = pl.pallas_call(
    functools.partial(_kernel, rule=rule, size=size, bits=pages.bits),
    out_shape=shape_like(q, q.shape, q.dtype),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=(batch, steps),
      in_specs=[
        pl.BlockSpec((1, *q.shape[1:]), row),
        *[pl.BlockSpec((1, *x.shape[1:]), page) for x in pages],
      ],
      out_specs=pl.BlockSpec((1, *q.shape[1:]), row),
      scratch_shapes=[
        pltpu.VMEM((*q.shape[1:3], 1), jnp.float32),
        pltpu.VMEM((*q.shape[1:3], 1), jnp.float32),
        pltpu.VMEM(q.shape[1:], jnp.float32),
      ],
    ),
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
    cost_estimate=pl.CostEstimate(
      flops=4 * tokens * query_heads * features,
      transcendentals=tokens * query_heads,
      bytes_accessed=2 * q.size * q.dtype.itemsize
      + batch * steps * sum(x.size // number * x.dtype.itemsize for x in pages),
    ),
    interpret=interpret,
  )
  return call(table, lengths, q, *pages).reshape(batch, query_heads, features)


def _kernel(table, lengths, q_ref, *refs, rule, size, bits):
  k_words, k_scale, k_offset, v_words, v_scale, v_offset, y_ref, *carried = refs
  top_ref, total_ref, sum_ref = carried
  b, step = pl.program_id(0), pl.program_id(1)

  @pl.when(step == 0)
  def _():
    top_ref[...] = jnp.full_like(top_ref, -jnp.inf)
    total_ref[...] = jnp.zeros_like(total_ref)
    sum_ref[...] = jnp.zeros_like(sum_ref)

  @pl.when(step * size < lengths[b])
  def _():
    q = q_ref[0]
    k = _dequantized(_codes(k_words, bits[0]), k_scale[0], k_offset[0])
    scores = _product(q, k.astype(q.dtype), 2) * rule.scale
    if rule.soft_cap is not None:
      scores = rule.soft_cap * jnp.tanh(scores / rule.soft_cap)
    seen = step * size + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 2) < lengths[b]
    scores = jnp.where(seen, scores, -jnp.inf)
    before = top_ref[...]
    top = jnp.maximum(before, scores.max(axis=2, keepdims=True))
    weights = jnp.exp(scores - top)
    kept = jnp.exp(before - top)
    top_ref[...] = top
    total_ref[...] = kept * total_ref[...] + weights.sum(axis=2, keepdims=True)
    codes = _codes(v_words, bits[1]).astype(q.dtype)
    sum_ref[...] = kept * sum_ref[...] + _values(
      weights, seen, codes, v_scale[0], v_offset[0], q.dtype
    )

  @pl.when(step == pl.num_programs(1) - 1)
  def _():
    total = total_ref[...]
    y_ref[0] = (sum_ref[...] / jnp.where(total == 0.0, 1.0, total)).astype(y_ref.dtype)


def _codes(ref, bits):
  """float32 codes [heads, tokens, D] of a page."""
  words = ref[0]
  heads, rows, features = words.shape
  codes = fields_of(words.reshape(heads * rows, features), bits, INTERLEAVE)
  return codes.reshape(heads, rows * 32 // bits, features).astype(jnp.float32)


def _dequantized(codes, scale, offset):
  heads, size, features = codes.shape
  groups = codes.reshape(heads, scale.shape[1], size // scale.shape[1], features)
  scale, offset = (x.astype(jnp.float32)[:, :, None] for x in (scale, offset))
  return (groups * scale + offset).reshape(heads, size, features)


def _values(weights, seen, codes, scale, offset, dtype):
  """Weights times values, a group of channels at a time."""
  channel = jax.lax.broadcasted_iota(jnp.int32, (1, 1, codes.shape[2]), 2)
  width = codes.shape[2] // scale.shape[1]
  total = None
  for group in range(scale.shape[1]):
    # Past the row's end scales may be anything, and 0 * NaN is NaN.
    s, o = (x[:, group : group + 1].astype(jnp.float32) for x in (scale, offset))
    scaled = jnp.where(seen, weights * s, 0.0).astype(dtype)
    shift = jnp.where(seen, weights * o, 0.0).sum(axis=2, keepdims=True)
    part = _product(scaled, codes, 1) + shift
    own = (channel >= group * width) & (channel < (group + 1) * width)
    total = part if total is None else jnp.where(own, part, total)
  return total


def _product(a, b, axis):
  precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
  dims = (((2,), (axis,)), ((0,), (0,)))
  return jax.lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)
