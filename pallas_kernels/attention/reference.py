"""Softmax attention in plain JAX: the answer that every kernel must give.

Shapes: q [B, Tq, H, D], k and v [B, Tk, H/G, D]; G query heads share a head of keys.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.attention.bias import Alibi
from pallas_kernels.attention.masks import Mask, dense

HIGHEST = jax.lax.Precision.HIGHEST


class Rule(NamedTuple):
  """What is static: scores are cap * tanh((scale * q . k + bias) / cap), without the cap if None."""

  scale: float
  soft_cap: float | None


def forward(q, k, v, bias, mask: Mask | None, *, rule: Rule):
  """Output [B, Tq, H, D] in the type of `q`, and float32 log-sum-exp of the scores [B, H, Tq].

  A query that sees nothing has the output 0 and the log-sum-exp 0.
  """
  scores, _ = _scores(q, k, bias, mask, rule)
  top = scores.max(axis=-1, keepdims=True, initial=-jnp.inf)
  # Not -inf - -inf where nothing is seen.
  top = jnp.where(top == -jnp.inf, 0, top)
  weights = jnp.exp(scores - top)
  total = weights.sum(axis=-1, keepdims=True)
  total = jnp.where(total == 0, 1, total)
  y = _product("bhgqk,bkhd->bqhgd", weights.astype(v.dtype), v)
  y = y / jnp.moveaxis(total[..., 0], -1, 1)[..., None]
  lse = (top + jnp.log(total))[..., 0]
  return y.reshape(q.shape).astype(q.dtype), lse.reshape(q.shape[0], q.shape[2], q.shape[1])


def backward(q, k, v, bias, mask: Mask | None, y, lse, dy, *, rule: Rule):
  """Cotangents of q, k, v, and of a dense bias (else None), from the output's."""
  groups = _grouped(q, k)
  scores, bent = _scores(q, k, bias, mask, rule)
  weights = jnp.exp(scores - lse.reshape(*scores.shape[:-1], 1))
  dy_groups = dy.reshape(groups.shape)
  delta = jnp.sum(y.astype(jnp.float32) * dy.astype(jnp.float32), axis=-1).reshape(groups.shape[:-1])
  dv = _product("bhgqk,bqhgd->bkhd", weights.astype(v.dtype), dy_groups)
  ds = _product("bqhgd,bkhd->bhgqk", dy_groups, v) - jnp.moveaxis(delta, 1, -1)[..., None]
  ds = weights * ds
  if rule.soft_cap is not None:
    ds = ds * (1 - bent**2)
  dq = rule.scale * _product("bhgqk,bkhd->bqhgd", ds.astype(k.dtype), k)
  dk = rule.scale * _product("bhgqk,bqhgd->bkhd", ds.astype(q.dtype), groups)
  dbias = None
  if isinstance(bias, jax.Array):
    ds = ds.reshape(q.shape[0], q.shape[2], *ds.shape[3:])
    axes = tuple(axis for axis in (0, 1) if bias.shape[axis] == 1)
    dbias = ds.sum(axes, keepdims=True).astype(bias.dtype)
  return dq.reshape(q.shape).astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), dbias


def _scores(q, k, bias, mask, rule):
  """float32 scores [B, H/G, G, Tq, Tk], -inf where nothing is seen, and tanh(...) of a soft cap."""
  groups = _grouped(q, k)
  scores = _product("bqhgd,bkhd->bhgqk", groups, k) * rule.scale
  if isinstance(bias, Alibi):
    lag = jnp.arange(q.shape[1])[:, None] + bias.offset - jnp.arange(k.shape[1])
    slopes = bias.slopes.astype(jnp.float32).reshape(scores.shape[1:3])
    scores = scores - slopes[..., None, None] * jnp.abs(lag).astype(jnp.float32)
  elif bias is not None:
    bias = jnp.broadcast_to(bias, (bias.shape[0], q.shape[2], *bias.shape[2:]))
    scores = scores + bias.astype(jnp.float32).reshape(-1, *scores.shape[1:])
  bent = None
  if rule.soft_cap is not None:
    bent = jnp.tanh(scores / rule.soft_cap)
    scores = rule.soft_cap * bent
  if mask is not None:
    scores = jnp.where(dense(mask, q.shape[1], k.shape[1])[:, None, None], scores, -jnp.inf)
  return scores, bent


def _grouped(q, k):
  batch, steps, heads, features = q.shape
  return q.reshape(batch, steps, k.shape[2], heads // k.shape[2], features)


def _product(equation, a, b):
  return jnp.einsum(equation, a, b, precision=HIGHEST, preferred_element_type=jnp.float32)
