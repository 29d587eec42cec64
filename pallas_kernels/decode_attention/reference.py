"""Gather, dequantize, attend: the answer that the kernel must give."""

import jax
import jax.numpy as jnp

from pallas_kernels.attention.reference import HIGHEST, Rule
from pallas_kernels.decode_attention.pages import Pages, dequantize_pages


def decode_attention(q, pages: Pages, table, lengths, *, rule: Rule):
  """Output [B, H, D] of queries [B, H, D] over the first `lengths` tokens of the tabled pages."""
  batch, _, features = q.shape
  table = jnp.clip(table, 0, pages.k_words.shape[0] - 1)
  taken = jax.tree.map(lambda x: x.at[table].get(mode="promise_in_bounds"), pages)
  k, v = dequantize_pages(taken)
  # [B, pages, N, S, D] to [B, N, tokens, D].
  k, v = (jnp.moveaxis(x, 2, 1).reshape(batch, k.shape[2], -1, features) for x in (k, v))
  groups = q.astype(jnp.float32).reshape(batch, k.shape[1], -1, features)
  scores = jnp.einsum("bngd,bntd->bngt", groups, k, precision=HIGHEST) * rule.scale
  if rule.soft_cap is not None:
    scores = rule.soft_cap * jnp.tanh(scores / rule.soft_cap)
  seen = jnp.arange(k.shape[2]) < lengths[:, None]
  scores = jnp.where(seen[:, None, None], scores, -jnp.inf)
  top = scores.max(axis=-1, keepdims=True)
  weights = jnp.exp(scores - jnp.where(top == -jnp.inf, 0, top))
  total = weights.sum(axis=-1, keepdims=True)
  # What lies past the end of a row may be anything, NaN too.
  v = jnp.where(seen[:, None, :, None], v, 0)
  y = jnp.einsum("bngt,bntd->bngd", weights, v, precision=HIGHEST)
  y = y / jnp.where(total == 0, 1, total)
  return y.reshape(q.shape).astype(q.dtype)
