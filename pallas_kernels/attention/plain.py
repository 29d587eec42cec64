"""Softmax attention in plain JAX, a few blocks of queries one after the other.

A block meets only the keys that lie within its mask's bounds: half of them under a causal mask.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.attention import masks
from pallas_kernels.attention.bias import Alibi
from pallas_kernels.attention.reference import HIGHEST, Rule

# Smaller blocks make small products; more blocks take long to compile.
ROWS, MOST_BLOCKS = 128, 8


class Block(NamedTuple):
  """Queries first..last - 1, and the keys that they can see at most."""

  queries: tuple[int, int]
  keys: tuple[int, int]


def forward(q, k, v, bias, mask, *, rule: Rule):
  """Output [B, Tq, H, D] in the type of `q`, and float32 log-sum-exp of the scores [B, H, Tq].

  A query that sees nothing has the output 0 and the log-sum-exp 0.
  """
  outputs, sums = [], []
  k_heads, v_heads = _heads(k), _heads(v)
  for block in _blocks(q, k, mask):
    rows, columns = slice(*block.queries), slice(*block.keys)
    queries = _grouped(q[:, rows], k)
    scores, _ = _scores(queries, k_heads[:, :, columns], bias, mask, block, rule)
    top = scores.max(axis=-1, keepdims=True, initial=-jnp.inf)
    # Not -inf - -inf where nothing is seen.
    top = jnp.where(top == -jnp.inf, 0, top)
    weights = jnp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    total = jnp.where(total == 0, 1, total)
    y = _product(weights.astype(v.dtype), v_heads[:, :, columns], 3, 2) / total
    outputs.append(_ungrouped(y, q))
    sums.append((top + jnp.log(total)).reshape(q.shape[0], q.shape[2], -1))
  return jnp.concatenate(outputs, axis=1), jnp.concatenate(sums, axis=2)


def backward(q, k, v, bias, mask, y, lse, dy, *, rule: Rule):
  """Cotangents of q, k, v, and of a dense bias (else None), from the output's."""
  k_heads, v_heads = _heads(k), _heads(v)
  dk, dv = (jnp.zeros(x.shape, jnp.float32) for x in (k_heads, v_heads))
  dense = bias is not None and not isinstance(bias, Alibi)
  dbias = jnp.zeros(bias.shape if dense else (), jnp.float32)
  delta = jnp.sum(y.astype(jnp.float32) * dy.astype(jnp.float32), axis=-1, keepdims=True)
  dqs = []
  for block in _blocks(q, k, mask):
    rows, columns = slice(*block.queries), slice(*block.keys)
    queries, outputs, shares = (_grouped(x[:, rows], k) for x in (q, dy, delta))
    keys, values = k_heads[:, :, columns], v_heads[:, :, columns]
    scores, bent = _scores(queries, keys, bias, mask, block, rule)
    weights = jnp.exp(scores - lse[:, :, rows].reshape(*scores.shape[:-1], 1))
    dv = dv.at[:, :, columns].add(_product(weights.astype(v.dtype), outputs, 2, 2))
    ds = weights * (_product(outputs, values, 3, 3) - shares)
    if bent is not None:
      ds = ds * (1 - bent**2)
    if dense:
      axes = tuple(axis for axis in (0, 1) if bias.shape[axis] == 1)
      by_head = ds.reshape(q.shape[0], q.shape[2], -1, ds.shape[-1])
      dbias = dbias.at[:, :, rows, columns].set(by_head.sum(axes, keepdims=True))
    ds = (rule.scale * ds).astype(q.dtype)
    dk = dk.at[:, :, columns].add(_product(ds, queries, 2, 2))
    dqs.append(_ungrouped(_product(ds, keys, 3, 2), q))
  dk, dv = (jnp.swapaxes(x, 1, 2).astype(k.dtype) for x in (dk, dv))
  return jnp.concatenate(dqs, axis=1), dk, dv, dbias.astype(bias.dtype) if dense else None


def _blocks(q, k, mask):
  steps, length = q.shape[1], k.shape[1]
  size = -(-steps // min(max(steps // ROWS, 1), MOST_BLOCKS))
  known = masks.bare(mask, masks.FAR)
  for start in range(0, steps, size):
    end = min(start + size, steps)
    low, high = (0, length - 1) if known is None else known.keys(start, end - 1)
    low, high = min(max(low, 0), length), min(high + 1, length)
    yield Block((start, end), (low, max(low, high)))


def _scores(queries, keys, bias, mask, block, rule):
  """float32 scores [B, H/G, G * Tq, Tk], -inf where unseen, and tanh(...) of a soft cap."""
  scores = _product(queries, keys, 3, 3) * rule.scale
  shape, steps = scores.shape, block.queries[1] - block.queries[0]
  by_head = shape[0], shape[1], shape[2] // steps, steps, shape[3]
  if isinstance(bias, Alibi):
    lag = jnp.arange(*block.queries)[:, None] + bias.offset - jnp.arange(*block.keys)
    slopes = bias.slopes.astype(jnp.float32).reshape(by_head[1:3])
    added = slopes[..., None, None] * jnp.abs(lag).astype(jnp.float32)
    scores = (scores.reshape(by_head) - added).reshape(shape)
  elif bias is not None:
    added = bias[:, :, slice(*block.queries), slice(*block.keys)].astype(jnp.float32)
    added = jnp.broadcast_to(added, (added.shape[0], by_head[1] * by_head[2], *by_head[3:]))
    scores = (scores.reshape(by_head) + added.reshape(-1, *by_head[1:])).reshape(shape)
  bent = None
  if rule.soft_cap is not None:
    bent = jnp.tanh(scores / rule.soft_cap)
    scores = rule.soft_cap * bent
  if mask is not None:
    seen = masks.dense(mask, block.queries, block.keys)[:, None, None]
    scores = jnp.where(seen, scores.reshape(by_head), -jnp.inf).reshape(shape)
  return scores, bent


def _heads(x):
  return jnp.swapaxes(x, 1, 2)


def _grouped(x, k):
  """[B, T, H, D] to [B, H/G, G * T, D]: no transposed scores then."""
  batch, steps, heads, features = x.shape
  x = x.reshape(batch, steps, k.shape[2], heads // k.shape[2], features)
  return jnp.moveaxis(x, 1, 3).reshape(batch, k.shape[2], -1, features)


def _ungrouped(y, q):
  batch, _, heads, features = q.shape
  y = y.reshape(batch, heads, -1, features)
  return jnp.swapaxes(y, 1, 2).astype(q.dtype)


def _product(a, b, axis_a, axis_b):
  dims = (((axis_a,), (axis_b,)), ((0, 1), (0, 1)))
  return jax.lax.dot_general(a, b, dims, precision=HIGHEST, preferred_element_type=jnp.float32)
