"""Decode attention on one CPU: a page of one row after the other, so that its floats stay in cache.

Pages past a row's end are not read.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.attention.reference import HIGHEST, Rule
from pallas_kernels.decode_attention.pages import Pages, dequantize_pages


def decode_attention(q, pages: Pages, table, lengths, *, rule: Rule):
  """As the reference."""
  batch, query_heads, features = q.shape
  number, heads = pages.k_words.shape[:2]
  size, steps = pages.size, table.shape[1]

  def turn(i, kept, q, places, length):
    place = jnp.clip(places[i], 0, number - 1)
    taken = (jax.lax.dynamic_index_in_dim(x, place, keepdims=False) for x in pages)
    k, v = dequantize_pages(Pages(*taken))
    scores = jnp.einsum("ngd,ntd->ngt", q, k, precision=HIGHEST) * rule.scale
    if rule.soft_cap is not None:
      scores = rule.soft_cap * jnp.tanh(scores / rule.soft_cap)
    seen = i * size + jnp.arange(size) < length
    scores = jnp.where(seen, scores, -jnp.inf)
    before, total, summed = kept
    # Of a page that is read a token is seen at least, so the top is no infinity.
    top = jnp.maximum(before, scores.max(axis=-1, keepdims=True))
    weights, rest = jnp.exp(scores - top), jnp.exp(before - top)
    # What lies past the end of a row may be anything, NaN too.
    v = jnp.where(seen[:, None], v, 0)
    y = jnp.einsum("ngt,ntd->ngd", weights, v, precision=HIGHEST)
    total = rest * total + weights.sum(axis=-1, keepdims=True)
    return top, total, rest * summed + y

  def row(given):
    q, places, length = given
    used = jnp.minimum(-(-length // size), steps)
    # Of the axes, within shard_map, that the loop's results have.
    nothing = jnp.zeros_like(q)
    begin = nothing[..., :1] - jnp.inf, nothing[..., :1], nothing
    _, total, summed = jax.lax.fori_loop(
      0, used, lambda i, kept: turn(i, kept, q, places, length), begin
    )
    return summed / jnp.where(total == 0, 1, total)

  groups = q.astype(jnp.float32).reshape(batch, heads, query_heads // heads, features)
  y = jax.lax.map(row, (groups, table, lengths))
  return y.reshape(q.shape).astype(q.dtype)
