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
  total, _ = jax.lax.scan(add, _begin(codes, codebooks), stages, unroll=STAGES_AT_ONCE)
  return total.astype(codebooks.dtype)


def by_stage(codes: jax.Array, changes: jax.Array) -> jax.Array:
  """The same of float32 [Q, K, D], a stage at a time, so that its transpose is a sum a stage."""
  # A code outside falls past the last entry, to be left out; -1 would count from the end.
  place = jnp.where((codes >= 0) & (codes < changes.shape[1]), codes, changes.shape[1])

  def add(total, stage):
    place, change = stage
    # A select in its stead would have the transpose select once more.
    return total + change.at[place].get(mode="fill", fill_value=0), None

  return jax.lax.scan(add, _begin(codes, changes), (place.T, changes))[0]


def _begin(codes, codebooks):
  # Of the axes, within shard_map, that the loop's results have.
  zero = sum(jnp.zeros_like(x.sum(), jnp.float32) for x in (codes, codebooks))
  return jnp.zeros((codes.shape[0], codebooks.shape[-1]), jnp.float32) + zero
