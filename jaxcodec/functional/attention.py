"""Attention over a sliding window of the past, whole or in chunks, as pure functions.

Shapes: queries, keys and values [B, T, H, D]; positions int32, counted from a signal's start.
"""

import jax
import jax.numpy as jnp
import numpy as np

import pallas_kernels as kernels

# Queries that share one block of keys; a multiple of what a TPU's registers are wide.
_BLOCK = 128


def rotary(x, position, base: float = 10_000.0):
  """Rotary position embedding; the pairs are the two halves of the features.

  Args:
    x: `[B, T, H, D]`.
    position: int `[B]`, of the first step.

  Source: Su et al., https://arxiv.org/abs/2104.09864, with the halves of GPT-NeoX.
  """
  return kernels.rotary(x, position[:, None] + jnp.arange(x.shape[1]), base)


def window_attention(q, k, v, position, window: int):
  """Softmax attention of each query to itself and to the `window - 1` steps before it.

  Works in blocks, so that its cost grows with T and not with its square.

  Args:
    q: `[B, T, H, D]`.
    k, v: `[B, window - 1 + T, H, D]`, the past first.
    position: int `[B]`, of the first query; keys before position 0 are not seen.

  Returns:
    `[B, T, H, D]`.
  """
  batch, steps, heads, features = q.shape
  past = window - 1
  size = min(_BLOCK, steps)
  count = -(-steps // size)
  fill = count * size - steps
  q, k, v = (jnp.pad(x, ((0, 0), (0, fill), (0, 0), (0, 0))) for x in (q, k, v))
  q = q.reshape(batch, count, size, heads, features)
  rows = np.arange(count)[:, None] * size + np.arange(size + past)
  k, v = k[:, rows], v[:, rows]
  lag = np.arange(size)[:, None] + past - np.arange(size + past)
  near = (lag >= 0) & (lag < window)
  begun = position[:, None, None] + rows - past >= 0
  seen = near & begun[:, :, None, :]
  scores = jnp.einsum("bnqhd,bnkhd->bnhqk", q, k) * features**-0.5
  scores = jnp.where(seen[:, :, None], scores, -jnp.inf)
  y = jnp.einsum("bnhqk,bnkhd->bnqhd", jax.nn.softmax(scores, axis=-1), v)
  return y.reshape(batch, count * size, heads, features)[:, :steps]
