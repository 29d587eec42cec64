"""Decode attention on a GPU: a program takes the queries of one head of keys over some pages.

Codes come in as words. Field f of a tile of words is a tile of tokens, eight in a row of every so
many, which need not be put in order: each has its score, weight and value. Keys are dequantized
before their product; values stay integers, exact in bfloat16, as their scale can multiply the
token's weight. A row's pages are split between programs so that few rows fill the card, too; their
sums are joined by one more step of softmax in plain JAX.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels import triton
from pallas_kernels.affine_quant.pack import planes, run_length
from pallas_kernels.attention.reference import Rule
from pallas_kernels.decode_attention import reference
from pallas_kernels.decode_attention.pages import INTERLEAVE, Pages
from pallas_kernels.dispatch import shape_like

# Tokens of a tile, whose words are 16 rows at least as a product on tensor cores asks.
TOKENS = 128
# Programs that fill a card of 132 processors a few times over.
PROGRAMS = 512


def decode_attention(q, pages: Pages, table, lengths, *, rule: Rule, interpret=False):
  """As the reference, which it is where codes are spread over words: 3, 5, 6, 7 bits."""
  if any(len(planes(bits)) > 1 for bits in pages.bits):
    return reference.decode_attention(q, pages, table, lengths, rule=rule)
  batch, query_heads, features = q.shape
  heads, steps = pages.k_words.shape[1], table.shape[1]
  q = q.reshape(batch, heads, query_heads // heads, features)
  splits = min(max(PROGRAMS // (batch * heads), 1), steps)
  shape = batch, heads, splits, q.shape[2]
  alike = pages.size // pages.k_scale.shape[2] % run_length(pages.bits[0], INTERLEAVE) == 0
  call = pl.pallas_call(
    functools.partial(
      _kernel,
      rule=rule,
      size=pages.size,
      bits=pages.bits,
      alike=alike,
      product=triton.products(interpret),
    ),
    out_shape=(
      shape_like(q, (*shape, features), jnp.float32),
      shape_like(q, (*shape, 1), jnp.float32),
      shape_like(q, (*shape, 1), jnp.float32),
    ),
    grid=(batch, heads, splits),
    # What is loaded ahead waits in shared memory, where scales of every field would not fit.
    compiler_params=triton.params(warps=4, stages=2 if alike else 1),
    interpret=interpret,
    name="decode_attention",
  )
  sums, tops, totals = call(q, *pages, table, lengths)
  top = tops.max(axis=2, keepdims=True)
  share = jnp.exp(tops - jnp.where(top == -jnp.inf, 0, top))
  total = (share * totals).sum(axis=2)
  y = (share * sums).sum(axis=2) / jnp.where(total == 0, 1, total)
  return y.reshape(batch, query_heads, features).astype(q.dtype)


def _kernel(
  q_ref,
  k_words,
  k_scale,
  k_offset,
  v_words,
  v_scale,
  v_offset,
  table_ref,
  lengths_ref,
  sum_ref,
  top_ref,
  total_ref,
  *,
  rule,
  size,
  bits,
  alike,
  product,
):
  b, head, split = (pl.program_id(axis) for axis in range(3))
  steps, number, features = table_ref.shape[1], k_words.shape[0], q_ref.shape[3]
  rows, columns = (triton.span(0, triton.power(x)) for x in q_ref.shape[2:])
  q = triton.load(q_ref, b, head, rows, columns)
  height = max(TOKENS * bits[0] // 32, 16)
  tiles = -(-k_words.shape[2] // height)
  share = -(-steps // sum_ref.shape[2])
  length = jnp.minimum(lengths_ref[b], steps * size)
  used = jax.lax.div(length + size - 1, size)
  first, last = split * share, jnp.minimum((split + 1) * share, used)

  def turn(i, kept):
    step, tile = jax.lax.div(i, tiles), jax.lax.rem(i, tiles)
    page = jnp.clip(table_ref[b, step], 0, number - 1)
    lines = triton.span(tile * height, height)
    here = page, head
    words = _words(k_words, v_words, here, lines, columns, bits)
    tokens = [_tokens(lines, field, bits[0]) for field in range(32 // bits[0])]
    # Past the row's end, and past the page's where its words do not fill the tile.
    seen = [((t < size) & (step * size + t < length))[None] for t in tokens]
    scores: list[jax.Array] = []
    for field, t in enumerate(tokens):
      keys = _codes(words[0], jnp.int32(field * bits[0]), bits[0]).astype(jnp.float32)
      if not (scores and alike):
        group = jax.lax.div(t, size // k_scale.shape[2])
        scale, offset = (
          triton.load(ref, *here, group, columns).astype(jnp.float32) for ref in (k_scale, k_offset)
        )
      keys = (keys * scale + offset).astype(q.dtype)
      score = product(q, keys, 1, 1) * rule.scale
      if rule.soft_cap is not None:
        score = rule.soft_cap * jnp.tanh(score / rule.soft_cap)
      scores.append(jnp.where(seen[field], score, -jnp.inf))
    before, total, summed = kept
    top = before
    for score in scores:
      top = jnp.maximum(top, score.max(axis=1, keepdims=True))
    # Not -inf - -inf where nothing is seen yet.
    safe = jnp.where(top == -jnp.inf, 0.0, top)
    rest = jnp.exp(before - safe)
    total, summed = rest * total, rest * summed
    for field, t in enumerate(tokens):
      weights = jnp.exp(scores[field] - safe)
      total = total + weights.sum(axis=1, keepdims=True)
      codes = words[1](t, field).astype(q.dtype)
      values = _values(weights, seen[field], codes, (v_scale, v_offset), here, t, features, product)
      summed = summed + values
    return top, total, summed

  shape = rows.shape[0], columns.shape[0]
  start = (
    jnp.full((shape[0], 1), -jnp.inf, jnp.float32),
    jnp.zeros((shape[0], 1), jnp.float32),
    jnp.zeros(shape, jnp.float32),
  )
  top, total, summed = jax.lax.fori_loop(first * tiles, last * tiles, turn, start)
  here, one = (b, head, split), triton.span(0, 1)
  triton.store(sum_ref, summed, *here, rows, columns)
  triton.store(top_ref, top, *here, rows, one)
  triton.store(total_ref, total, *here, rows, one)


def _words(k_words, v_words, here, lines, columns, bits):
  """Words of keys, and a function that gives codes of values at tokens of a field of theirs."""
  keys = triton.load(k_words, *here, lines, columns)
  if bits[0] == bits[1]:
    words = triton.load(v_words, *here, lines, columns)
    return keys, lambda t, field: _codes(words, jnp.int32(field * bits[1]), bits[1])

  def values(t, field):
    del field
    run = run_length(bits[1], INTERLEAVE)
    within = jax.lax.rem(t, run)
    line = jax.lax.div(t, run) * INTERLEAVE + jax.lax.rem(t, INTERLEAVE)
    words = triton.load(v_words, *here, line, columns)
    return _codes(words, (jax.lax.div(within, INTERLEAVE) * bits[1])[:, None], bits[1])

  return keys, values


def _tokens(lines, field, bits):
  """Tokens of a page whose codes are in a field of rows of words."""
  run = run_length(bits, INTERLEAVE)
  return jax.lax.div(lines, INTERLEAVE) * run + field * INTERLEAVE + jax.lax.rem(lines, INTERLEAVE)


def _codes(words, shift, bits):
  return words >> shift & ((1 << bits) - 1)


def _values(weights, seen, codes, refs, here, tokens, features, product):
  """Weights times values, a group of channels at a time."""
  channel = jax.lax.broadcasted_iota(jnp.int32, (1, codes.shape[1]), 1)
  groups = refs[0].shape[2]
  width = features // groups
  total = None
  for group in range(groups):
    scale, offset = (
      triton.load(ref, *here, triton.span(group, 1), tokens).astype(jnp.float32) for ref in refs
    )
    # Past the row's end scales may be anything, and 0 * NaN is NaN.
    scaled = jnp.where(seen, weights * scale, 0.0).astype(codes.dtype)
    shift = jnp.where(seen, weights * offset, 0.0).sum(axis=1, keepdims=True)
    part = product(scaled, codes, 1, 0) + shift
    own = (channel >= group * width) & (channel < (group + 1) * width)
    total = part if total is None else jnp.where(own, part, total)
  return total
