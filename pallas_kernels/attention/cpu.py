"""Attention on one CPU: a head of keys after the other, so that a block's scores stay in cache.

XLA would compute all heads' scores before the first maximum, at several passes through memory each.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.attention import plain
from pallas_kernels.attention.bias import Alibi
from pallas_kernels.attention.reference import Rule

# Where a head has fewer scores, all heads' are in cache together.
FEW_SCORES = 1 << 16


def forward(q, k, v, bias, mask, *, rule: Rule):
  """As `plain.forward`."""
  if q.shape[1] * k.shape[1] < FEW_SCORES:
    return plain.forward(q, k, v, bias, mask, rule=rule)
  batch, heads, group = k.shape[0], k.shape[2], q.shape[2] // k.shape[2]

  def head(index, q, k, v):
    b, m = _own(bias, mask, index, heads, group)
    return plain.forward(q, k, v, b, m, rule=rule)

  y, lse = _each(head, batch * heads, *(_split(x, heads) for x in (q, k, v)))
  return _joined(y, batch), lse.reshape(batch, heads * group, -1)


def backward(q, k, v, bias, mask, y, lse, dy, *, rule: Rule):
  """As `plain.backward`, which a dense bias has instead: its cotangent adds up over rows."""
  dense = bias is not None and not isinstance(bias, Alibi)
  if dense or q.shape[1] * k.shape[1] < FEW_SCORES:
    return plain.backward(q, k, v, bias, mask, y, lse, dy, rule=rule)
  batch, heads, group = k.shape[0], k.shape[2], q.shape[2] // k.shape[2]

  def head(index, q, k, v, y, dy, lse):
    b, m = _own(bias, mask, index, heads, group)
    return plain.backward(q, k, v, b, m, y, lse, dy, rule=rule)[:3]

  sums = lse.reshape(batch * heads, 1, group, -1)
  arrays = (*(_split(x, heads) for x in (q, k, v, y, dy)), sums)
  grads = _each(head, batch * heads, *arrays)
  return *(_joined(x, batch) for x in grads), None


def _each(head, number, *arrays):
  return jax.lax.map(lambda args: head(*args), (jnp.arange(number), *arrays))


def _split(x, heads):
  """[B, T, H, D] to [B * heads, 1, T, H / heads, D]."""
  batch, steps, total, features = x.shape
  x = jnp.moveaxis(x.reshape(batch, steps, heads, total // heads, features), 2, 1)
  return x.reshape(batch * heads, 1, steps, total // heads, features)


def _joined(x, batch):
  _, _, steps, group, features = x.shape
  x = jnp.moveaxis(x.reshape(batch, -1, steps, group, features), 1, 2)
  return x.reshape(batch, steps, -1, features)


def _own(bias, mask, index, heads, group):
  """Bias and mask of one row and one head of keys."""
  b, h = index // heads, index % heads

  def part(x, axis, start, size):
    return x if x.shape[axis] == 1 else jax.lax.dynamic_slice_in_dim(x, start, size, axis)

  mask = jax.tree.map(lambda x: part(x, 0, b, 1), mask)
  if isinstance(bias, Alibi):
    bias = Alibi(jax.lax.dynamic_slice_in_dim(bias.slopes, h * group, group), bias.offset)
  elif bias is not None:
    bias = part(part(bias, 0, b, 1), 1, h * group, group)
  return bias, mask
