"""Nearest codebook entry in plain JAX: the answer that every kernel must give."""

import jax
import jax.numpy as jnp


def nearest_code(z: jax.Array, codebook: jax.Array, metric: str = "l2") -> jax.Array:
  """The nearest of `codebook` [K, D] to each of `z` [N, D]; int32 [N].

  It holds the N x K matrix. A row with a NaN gets code 0.
  """
  z, codebook = z.astype(jnp.float32), codebook.astype(jnp.float32)
  if metric == "cosine":
    codebook = direction(codebook)
    return first_least(scores(z, codebook, jnp.float32(0)))[1]
  return first_least(scores(z, codebook, jnp.sum(codebook**2, axis=-1)))[1]


def scores(z: jax.Array, codebook: jax.Array, bias: jax.Array) -> jax.Array:
  """bias_k - 2 z . e_k, [N, K]: less where nearer.

  With |e_k|^2 for a bias it is the squared distance less |z|^2, which is the same for every entry.
  """
  # On CPUs a row alone is multiplied in another way, and rounds as it does not among others.
  rows = jnp.concatenate([z, z]) if len(z) == 1 else z
  inner = jnp.matmul(rows, codebook.T, precision=jax.lax.Precision.HIGHEST)
  return bias - 2 * inner[: len(z)]


def first_least(values: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The least of each row of `values` [N, K] and the first place that has it, int32 [N].

  A row with a NaN has NaN for its least and 0 for its place.
  """
  least = values.min(axis=-1, keepdims=True)
  # Two passes rather than argmin: XLA on CPU vectorises a minimum of floats, not of integers nor of
  # pairs. Floats count to 2^24.
  size = values.shape[-1]
  count = jnp.float32 if size < 1 << 24 else jnp.int32
  place = jax.lax.broadcasted_iota(count, values.shape, 1)
  first = jnp.where(values == least, place, size).min(axis=-1).astype(jnp.int32)
  return least[..., 0], jnp.where(first < size, first, 0)


def direction(codebook: jax.Array) -> jax.Array:
  """Entries [K, D] at length 1, or divided by 1e-12 where they are shorter."""
  norm = jnp.sqrt(jnp.sum(codebook**2, axis=-1, keepdims=True))
  return codebook / jnp.maximum(norm, 1e-12)
