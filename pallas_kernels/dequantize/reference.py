"""Sum of coded entries in plain JAX, by gather: the answer that every kernel must give."""

import jax
import jax.numpy as jnp

# XLA on a CPU fuses this many gathers and their sum in one loop over rows; of more it would take
# long to compile.
STAGES_AT_ONCE = 8


def dequantize(codes: jax.Array, codebooks: jax.Array) -> jax.Array:
  """The entries of `codes` [N, Q] in `codebooks` [Q, K, D], added in the order of the stages.

  [N, D] of the codebooks' type, summed in float32. A code outside 0..K - 1 adds nothing.
  """
  known = (codes >= 0) & (codes < codebooks.shape[1])
  place = jnp.where(known, codes, 0)

  def add(total, stage):
    number, place, known = stage
    # No slice of a stage, which would be a copy of it.
    chosen = codebooks.at[number, place].get(mode="promise_in_bounds")
    return total + jnp.where(known[:, None], chosen, 0).astype(jnp.float32), None

  stages = jnp.arange(codebooks.shape[0]), place.T, known.T
  # Of the axes, within shard_map, that the loop's results have.
  zero = sum(jnp.zeros_like(x.sum(), jnp.float32) for x in (codes, codebooks))
  begin = jnp.zeros((codes.shape[0], codebooks.shape[-1]), jnp.float32) + zero
  total, _ = jax.lax.scan(add, begin, stages, unroll=STAGES_AT_ONCE)
  return total.astype(codebooks.dtype)


def gradient(codes: jax.Array, cotangent: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
  """What each of the [Q, K, D] entries adds up of `cotangent` [N, D], float32."""

  def add(codes):
    # A code outside falls past the last entry, to be dropped; -1 would count from the end.
    place = jnp.where((codes >= 0) & (codes < shape[1]), codes, shape[1])
    zeros = jnp.zeros(shape[1:], jnp.float32)
    return zeros.at[place].add(cotangent.astype(jnp.float32), mode="drop")

  return jax.lax.map(add, codes.T)
