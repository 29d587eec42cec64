"""Sum of coded entries in plain JAX, by gather: the answer that every kernel must give."""

import jax
import jax.numpy as jnp


def dequantize(codes: jax.Array, codebooks: jax.Array) -> jax.Array:
  """The entries of `codes` [N, Q] in `codebooks` [Q, K, D], added in the order of the stages.

  [N, D] of the codebooks' type, summed in float32. A code outside 0..K - 1 adds nothing.
  """

  def add(total, stage):
    codes, codebook = stage
    known = (codes >= 0) & (codes < codebook.shape[0])
    chosen = jnp.where(known[:, None], codebook[jnp.where(known, codes, 0)], 0)
    return total + chosen.astype(jnp.float32), None

  # Of the axes, within shard_map, that the loop's results have.
  zero = sum(jnp.zeros_like(x.sum(), jnp.float32) for x in (codes, codebooks))
  begin = jnp.zeros((codes.shape[0], codebooks.shape[-1]), jnp.float32) + zero
  total, _ = jax.lax.scan(add, begin, (codes.T, codebooks))
  return total.astype(codebooks.dtype)


def gradient(codes: jax.Array, cotangent: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
  """What each of the [Q, K, D] entries adds up of `cotangent` [N, D], float32."""

  def add(codes):
    # A code outside falls past the last entry, to be dropped; -1 would count from the end.
    place = jnp.where((codes >= 0) & (codes < shape[1]), codes, shape[1])
    zeros = jnp.zeros(shape[1:], jnp.float32)
    return zeros.at[place].add(cotangent.astype(jnp.float32), mode="drop")

  return jax.lax.map(add, codes.T)
