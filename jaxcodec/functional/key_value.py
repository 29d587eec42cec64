"""Pairs of frozen keys and trained values, and several codes of one table at a time.

Shapes: z [..., D]; keys [C, J, k], values [C, J, v]; a table [K, D].
"""

import jax
import jax.numpy as jnp

from jaxcodec.functional.codebook import lookup


def project_heads(z, projection):
  """[..., D] to [..., C, k] by `projection` [C, D, k]."""
  return jnp.einsum("...d,cdk->...ck", z, projection, precision=jax.lax.Precision.HIGHEST)


def nearest_keys(heads, keys, allowed=None):
  """Index int32 [..., C] of the key nearest to each head [..., C, k]; ties to the lowest.

  Args:
    heads: [..., C, k].
    keys: [C, J, k].
    allowed: bool [C, J], the keys that may be found, say those that training has used; None for
      all.
  """
  heads, keys = jax.lax.stop_gradient((heads, keys))
  inner = jnp.einsum("...ck,cjk->...cj", heads, keys, precision=jax.lax.Precision.HIGHEST)
  distance = jnp.sum(keys**2, axis=-1) - 2 * inner
  if allowed is not None:
    if jnp.shape(allowed) != keys.shape[:2]:
      raise ValueError(f"allowed {jnp.shape(allowed)} must be that of the keys, {keys.shape[:2]}")
    distance = jnp.where(allowed, distance, jnp.inf)
  return jnp.argmin(distance, axis=-1).astype(jnp.int32)


def mean_values(codes, values):
  """Mean over the C heads of the values of codes [..., C]: [..., v]; a code of -1 votes zero."""
  heads = jnp.arange(values.shape[0])
  chosen = values[heads, jnp.maximum(codes, 0)]
  return jnp.where(codes[..., None] >= 0, chosen, 0).mean(axis=-2)


def top_codes(z, table, number: int, disabled=None):
  """The `number` codes whose entries lie nearest in direction, int32 [..., number], best first.

  The score is z . c / |c|; ties go to the lowest index. Source: Codebook Features,
  https://arxiv.org/abs/2310.17230.

  Args:
    z: [..., D].
    table: [K, D].
    number: how many codes.
    disabled: bool [K], codes that must not come; the next best ones do. None for none.
  """
  z, table = jax.lax.stop_gradient((z, table))
  length = jnp.maximum(jnp.sqrt(jnp.sum(table**2, axis=-1)), 1e-12)
  score = jnp.matmul(z, table.T, precision=jax.lax.Precision.HIGHEST) / length
  if disabled is not None:
    if jnp.shape(disabled) != table.shape[:1]:
      raise ValueError(f"disabled {jnp.shape(disabled)} must be [{table.shape[0]}]")
    score = jnp.where(disabled, -jnp.inf, score)
  return jax.lax.top_k(score, number)[1]


def mean_entries(codes, table):
  """Mean of the entries of codes [..., k]: [..., D]; a code of -1 stands for a zero vector."""
  return lookup(codes, table).mean(axis=-2)
