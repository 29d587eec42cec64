"""Nearest codebook entry in plain JAX: the answer that every kernel must give."""

import jax
import jax.numpy as jnp


def nearest_code(z: jax.Array, codebook: jax.Array) -> jax.Array:
  """argmin_k |z - e_k|^2 for `z` [N, D] and `codebook` [K, D]; int32 [N].

  |z|^2 is the same for every entry, so it is left out. A row with a NaN gets code 0.
  """
  z, codebook = z.astype(jnp.float32), codebook.astype(jnp.float32)
  inner = jnp.matmul(z, codebook.T, precision=jax.lax.Precision.HIGHEST)
  distance = jnp.sum(codebook**2, axis=-1) - 2 * inner
  # Two passes rather than argmin: XLA on CPU vectorises a minimum of floats, not of integers nor of
  # pairs. Floats count to 2^24.
  num_entries = codebook.shape[0]
  count = jnp.float32 if num_entries < 1 << 24 else jnp.int32
  entry = jax.lax.broadcasted_iota(count, distance.shape, 1)
  is_nearest = distance == distance.min(axis=-1, keepdims=True)
  first = jnp.where(is_nearest, entry, num_entries).min(axis=-1).astype(jnp.int32)
  return jnp.where(first < num_entries, first, 0)
