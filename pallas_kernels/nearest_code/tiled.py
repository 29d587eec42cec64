"""Nearest codebook entry without the N x K matrix: tile by tile, each of a size to be chosen."""

import jax
import jax.numpy as jnp

from pallas_kernels.nearest_code import reference

_BLOCK = 32


def nearest_code(
  z: jax.Array, codebook: jax.Array, metric: str, rows: int, entries: int
) -> jax.Array:
  """As the reference, from tiles of at most `rows` x `entries` scores.

  Tiles are as alike as the numbers allow. A last one that would reach past the end begins earlier,
  and looks at some twice: that changes no answer and needs no padded copy of the inputs.
  """
  z, codebook = z.astype(jnp.float32), codebook.astype(jnp.float32)
  if metric == "cosine":
    codebook, bias = reference.direction(codebook), jnp.zeros(codebook.shape[0])
  else:
    bias = jnp.sum(codebook**2, axis=-1)
  number = z.shape[0]
  if number <= rows:
    return _few_rows(z, codebook, bias, entries)

  turns = -(-number // rows)
  rows = -(-number // turns)

  def turn(i, codes):
    start = jnp.minimum(i * rows, number - rows)
    some = jax.lax.dynamic_slice_in_dim(z, start, rows)
    found = _few_rows(some, codebook, bias, entries)
    return jax.lax.dynamic_update_slice_in_dim(codes, found, start, 0)

  # Of the axes, within shard_map, that the loop's results have; so below.
  begin = jnp.zeros_like(z[:, 0], jnp.int32)
  return jax.lax.fori_loop(0, turns, turn, begin)


def interleaved(z: jax.Array, codebook: jax.Array, metric: str, entries: int) -> jax.Array:
  """As the reference, from tiles of at least `entries` entries, one of each run of neighbours.

  So each tile takes as much from every device that the entries lie over, and none is given what
  another one holds. A codebook whose size is no multiple of a power of two has larger tiles.
  """
  z, codebook = z.astype(jnp.float32), codebook.astype(jnp.float32)
  number, turns = codebook.shape[0], 1
  while number % (2 * turns) == 0 and number // turns > entries:
    turns *= 2
  if metric == "cosine":
    codebook, bias = reference.direction(codebook), jnp.zeros(number)
  else:
    bias = jnp.sum(codebook**2, axis=-1)
  codebook, bias = codebook.reshape(-1, turns, codebook.shape[1]), bias.reshape(-1, turns)

  def turn(i, best):
    part = jax.lax.dynamic_index_in_dim(codebook, i, 1, keepdims=False)
    part_bias = jax.lax.dynamic_index_in_dim(bias, i, 1, keepdims=False)
    score, code = reference.first_least(reference.scores(z, part, part_bias))
    code = jnp.where(jnp.isnan(score), 0, code * turns + i)
    less = (score < best[0]) | ((score == best[0]) & (code < best[1])) | jnp.isnan(score)
    return jnp.where(less, score, best[0]), jnp.where(less, code, best[1])

  worst = jnp.where(jnp.isnan(z[:, 0]), jnp.nan, jnp.inf)
  begin = worst, jnp.zeros_like(worst, jnp.int32)
  return jax.lax.fori_loop(0, turns, turn, begin)[1]


def _few_rows(z, codebook, bias, entries: int):
  number = codebook.shape[0]
  turns = -(-number // entries)
  entries = -(-number // turns)

  def turn(i, best):
    start = jnp.minimum(i * entries, number - entries)
    part = jax.lax.dynamic_slice_in_dim(codebook, start, entries)
    part_bias = jax.lax.dynamic_slice_in_dim(bias, start, entries)
    score, code = _first_least(_scores(z, part, part_bias))
    # Only what is less: a tie is the earlier entry's. A NaN stays, and its code is 0.
    less = (score < best[0]) | jnp.isnan(score)
    code = jnp.where(jnp.isnan(score), 0, code + start)
    return jnp.where(less, score, best[0]), jnp.where(less, code, best[1])

  worst = jnp.where(jnp.isnan(z[:, 0]), jnp.nan, jnp.inf)
  begin = worst, jnp.zeros_like(worst, jnp.int32)
  return jax.lax.fori_loop(0, turns, turn, begin)[1]


def _scores(z, codebook, bias) -> jax.Array:
  """As the reference's, [K, N]: the least of each column is found by whole vectors of columns."""
  # A column alone would be rounded as it is not among others.
  rows = jnp.concatenate([z, z]) if len(z) == 1 else z
  inner = jnp.matmul(codebook, rows.T, precision=jax.lax.Precision.HIGHEST)
  return bias[:, None] - 2 * inner[:, : len(z)]


def _first_least(values: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The least of each column of `values` [K, N] and the first place that has it, int32 [N].

  All of `values` is read once, for the least of each block, and then the one block that has the
  least of all. A column with a NaN has NaN for its least and 0 for its place.
  """
  size, columns = values.shape
  number = -(-size // _BLOCK)
  blocks = jnp.pad(values, ((0, number * _BLOCK - size), (0, 0)), constant_values=jnp.inf)
  blocks = blocks.reshape(number, _BLOCK, columns)
  lows = blocks.min(axis=1)
  least = lows.min(axis=0)
  block = _first(lows == least)
  within = _first(jnp.take_along_axis(blocks, block[None, None], axis=0)[0] == least)
  return least, jnp.where(jnp.isnan(least), 0, block * _BLOCK + within)


def _first(found: jax.Array) -> jax.Array:
  """The first row of each column of `found` that is true, int32; some row if none is."""
  # Floats, as XLA on CPUs takes no minimum of integers nor of pairs by whole vectors.
  rows = jax.lax.broadcasted_iota(jnp.float32, found.shape, 0)
  return jnp.where(found, rows, found.shape[0] - 1).min(axis=0).astype(jnp.int32)
