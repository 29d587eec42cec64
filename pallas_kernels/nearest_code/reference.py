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
  # Two passes rather than argmin: XLA on CPU vectorises a minimum, not a (value, index) reduction.
  entry = jax.lax.broadcasted_iota(jnp.int32, distance.shape, 1)
  is_nearest = distance == distance.min(axis=-1, keepdims=True)
  num_entries = codebook.shape[0]
  first = jnp.where(is_nearest, entry, num_entries).min(axis=-1)
  return jnp.where(first < num_entries, first, 0)
