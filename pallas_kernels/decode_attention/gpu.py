"""Decode attention on a GPU: a program takes the queries of one head of keys over some pages.

Codes come in as words. Field f of a tile of words is a tile of tokens, eight in a row of every so
many, which need not be put in order: each has its score, weight and value. Keys are dequantized
before their product; values stay integers, exact in bfloat16, as their scale can multiply the
token's weight. A row's pages are split between programs so that few rows fill the card, too; their
sums are joined by one more step of softmax in plain JAX.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels import triton
from pallas_kernels.affine_quant.pack import planes, run_length
from pallas_kernels.attention.reference import Rule
from pallas_kernels.decode_attention import reference
from pallas_kernels.decode_attention.pages import INTERLEAVE, Pages
from pallas_kernels.dispatch import shape_like

# Of keys' bits: rows of words in a tile, 16 at least as a product on tensor cores asks, and stages,
# as an H100 was quickest with.
TILES = {8: (32, 2), 4: (32, 1), 2: (16, 1), 1: (16, 1)}
LOG2_E = math.log2(math.e)
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
  height, stages = TILES[pages.bits[0]]
  alike = _alike(pages.size // pages.k_scale.shape[2], pages.bits[0])
  call = pl.pallas_call(
    functools.partial(
      _kernel,
      rule=rule,
      size=pages.size,
      bits=pages.bits,
      alike=alike,
      height=height,
      interpret=interpret,
    ),
    out_shape=(
      shape_like(q, (*shape, features), jnp.float32),
      shape_like(q, (*shape, 1), jnp.float32),
      shape_like(q, (*shape, 1), jnp.float32),
    ),
    grid=(batch, heads, splits),
    # What is loaded ahead waits in shared memory, where scales of every field would not fit.
    compiler_params=triton.params(warps=4, stages=stages if alike > 1 else 1),
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
  height,
  interpret,
):
  product, fma = triton.products(interpret), triton.fused(interpret)
  between, exp2 = triton.between(interpret), triton.exp2(interpret)
  b, head, split = (pl.program_id(axis) for axis in range(3))
  steps, number, features = table_ref.shape[1], k_words.shape[0], q_ref.shape[3]
  rows, columns = (triton.span(0, triton.power(x)) for x in q_ref.shape[2:])
  q = triton.load(q_ref, b, head, rows, columns)
  tiles = -(-k_words.shape[2] // height)
  share = -(-steps // sum_ref.shape[2])
  length = jnp.minimum(lengths_ref[b], steps * size)
  used = jax.lax.div(length + size - 1, size)
  first, last = split * share, jnp.minimum((split + 1) * share, used)
  # bfloat16 holds the numbers between 1 and 2 of 4 bits exactly, and codes of 8.
  whole = bits[1] == 8
  wide = 1.0 if whole else float(1 << bits[1])

  def turn(i, kept):
    step, tile = jax.lax.div(i, tiles), jax.lax.rem(i, tiles)
    page = jnp.clip(table_ref[b, step], 0, number - 1)
    lines = triton.span(tile * height, height)
    here = page, head
    words = _words(k_words, v_words, here, lines, columns, bits, between, fma)
    tokens = [_tokens(lines, field, bits[0]) for field in range(32 // bits[0])]
    # Past the row's end, and past the page's where its words do not fill the tile.
    seen = [((t < size) & (step * size + t < length))[None] for t in tokens]
    scores: list[jax.Array] = []
    for field, t in enumerate(tokens):
      if field % alike == 0:
        group = jax.lax.div(t, size // k_scale.shape[2])
        scale, offset = (
          triton.load(ref, *here, group, columns).astype(jnp.float32) for ref in (k_scale, k_offset)
        )
        # Codes come as numbers between 1 and 2, see `triton.between`.
        scale = scale * (1 << bits[0])
        offset = offset - scale
      keys = fma(between(words[0], bits[0], field, signed=False), scale, offset).astype(q.dtype)
      score = product(q, keys, 1, 1) * rule.scale
      if rule.soft_cap is not None:
        score = rule.soft_cap * jnp.tanh(score / rule.soft_cap)
      scores.append(jnp.where(seen[field], score, -jnp.inf))
    before, total, summed, shifts = kept
    top = functools.reduce(jnp.maximum, scores).max(axis=1, keepdims=True)
    top = jnp.maximum(before, top)
    # Not -inf - -inf where nothing is seen yet.
    safe = jnp.where(top == -jnp.inf, 0.0, top)
    rest = exp2(LOG2_E * (before - safe))
    weights = [exp2(fma(score, jnp.float32(LOG2_E), -LOG2_E * safe)) for score in scores]
    total = rest * total + sum(weights[1:], weights[0]).sum(axis=1, keepdims=True)
    summed, shifts = [rest * x for x in summed], [rest * x for x in shifts]
    values = [words[1](t, field).astype(q.dtype) for field, t in enumerate(tokens)]
    for part in range(v_scale.shape[2]):
      shift = jnp.zeros((1, 1), jnp.float32)
      for t, inside, weight, value in zip(tokens, seen, weights, values, strict=True):
        scale, offset = (
          triton.load(ref, *here, triton.span(part, 1), t).astype(jnp.float32)
          for ref in (v_scale, v_offset)
        )
        # Past the row's end scales may be anything, and 0 * NaN is NaN.
        scaled = jnp.where(inside, weight * (wide * scale), 0.0).astype(value.dtype)
        shift += jnp.where(inside, weight * offset, 0.0)
        if not whole:
          # As rounded as in the product, from which a value's one goes without an error.
          shift -= scaled.astype(jnp.float32)
        summed[part] += product(scaled, value, 1, 0)
      shifts[part] += shift.sum(axis=1, keepdims=True)
    return top, total, summed, shifts

  shape, groups = (rows.shape[0], columns.shape[0]), v_scale.shape[2]
  start = (
    jnp.full((shape[0], 1), -jnp.inf, jnp.float32),
    jnp.zeros((shape[0], 1), jnp.float32),
    [jnp.zeros(shape, jnp.float32)] * groups,
    [jnp.zeros((shape[0], 1), jnp.float32)] * groups,
  )
  top, total, summed, shifts = jax.lax.fori_loop(first * tiles, last * tiles, turn, start)
  found = summed[0] + shifts[0]
  for group in range(1, groups):
    own = columns[None] >= group * (features // groups)
    found = jnp.where(own, summed[group] + shifts[group], found)
  here, one = (b, head, split), triton.span(0, 1)
  triton.store(sum_ref, found, *here, rows, columns)
  triton.store(top_ref, top, *here, rows, one)
  triton.store(total_ref, total, *here, rows, one)


def _words(k_words, v_words, here, lines, columns, bits, between, fma):
  """Words of keys, and a function that gives values at tokens of a field of theirs.

  They are numbers between 1 and 2, see `triton.between`, but the codes themselves of 8 bits.
  """
  keys = triton.load(k_words, *here, lines, columns)
  if bits[0] == bits[1]:
    words = triton.load(v_words, *here, lines, columns)

    def values(t, field):
      del t
      return between(words, bits[1], field, signed=False)

  else:

    def values(t, field):
      del field
      run = run_length(bits[1], INTERLEAVE)
      within = jax.lax.rem(t, run)
      line = jax.lax.div(t, run) * INTERLEAVE + jax.lax.rem(t, INTERLEAVE)
      words = triton.load(v_words, *here, line, columns)
      # To the lowest field.
      words = words >> (jax.lax.div(within, INTERLEAVE) * bits[1])[:, None]
      return between(words, bits[1], 0, signed=False)

  if bits[1] < 8:
    return keys, values
  return keys, lambda t, field: fma(values(t, field), jnp.float32(256), jnp.float32(-256))


def _alike(group: int, bits: int) -> int:
  """Fields of a word, one after the other, that lie in one group of so many tokens."""
  run = run_length(bits, INTERLEAVE)
  if group % run == 0:
    return run // INTERLEAVE
  return group // INTERLEAVE if run % group == 0 and group % INTERLEAVE == 0 else 1


def _tokens(lines, field, bits):
  """Tokens of a page whose codes are in a field of rows of words."""
  run = run_length(bits, INTERLEAVE)
  return jax.lax.div(lines, INTERLEAVE) * run + field * INTERLEAVE + jax.lax.rem(lines, INTERLEAVE)
