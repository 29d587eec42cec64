"""Softmax attention by its definition: the answer that the blocked forms must give.

Shapes: q [B, Tq, H, D], k and v [B, Tk, H/G, D]; G query heads share a head of keys.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.attention.bias import Alibi
from pallas_kernels.attention.masks import Mask, dense

HIGHEST = jax.lax.Precision.HIGHEST


class Rule(NamedTuple):
  """Scores are cap * tanh((scale * q . k + bias) / cap), or without the cap if it is None."""

  scale: float
  soft_cap: float | None


def attention(q, k, v, bias, mask: Mask | None, *, rule: Rule):
  """Output [B, Tq, H, D]; 0 for a query that sees nothing."""
  group = q.shape[2] // k.shape[2]
  dtype = q.dtype
  q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
  k, v = (jnp.repeat(x, group, axis=2) for x in (k, v))
  scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision=HIGHEST) * rule.scale
  if isinstance(bias, Alibi):
    lag = jnp.arange(q.shape[1])[:, None] + bias.offset - jnp.arange(k.shape[1])
    scores = scores - bias.slopes[:, None, None].astype(jnp.float32) * jnp.abs(lag)
  elif bias is not None:
    scores = scores + bias.astype(jnp.float32)
  if rule.soft_cap is not None:
    scores = rule.soft_cap * jnp.tanh(scores / rule.soft_cap)
  seen = jnp.ones((1, q.shape[1], k.shape[1]), bool)
  if mask is not None:
    seen = dense(mask, (0, q.shape[1]), (0, k.shape[1]))
  seen = jnp.broadcast_to(seen[:, None], scores.shape)
  # softmax gives NaN to a row without any weight, backward too.
  blind = ~seen.any(axis=-1, keepdims=True)
  weights = jax.nn.softmax(scores, axis=-1, where=seen | blind)
  weights = jnp.where(seen, weights, 0)
  return jnp.einsum("bhqk,bkhd->bqhd", weights, v, precision=HIGHEST).astype(dtype)
