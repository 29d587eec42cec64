"""x @ dequantized weights on one CPU: a tile of weights after the other, which stays in cache.

XLA would write all weights as floats to memory and read them again: eight times as long for one row
of `x`.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.affine_quant.tiles import by_tile, codes_of, dequantized, tiles
from pallas_kernels.quant_matmul import reference

# Weights of a tile: 2 MB as float32.
WEIGHTS = 1 << 19
# With more rows of x the product takes longer than its weights, and would be read once a tile.
ROWS = 256


def quant_matmul(x, words, scale, offset, *, bits: int):
  """As `reference.quant_matmul`."""
  (rows, length), columns = x.shape, words.shape[1]
  plan = tiles(length, scale.shape[0], bits, max(WEIGHTS // columns, 1))
  if rows > ROWS or plan is None or plan.steps == 1:
    return reference.quant_matmul(x, words, scale, offset, bits=bits)
  lines = plan.depth * bits // 32
  x = jnp.pad(x, ((0, 0), (0, plan.length - length)))
  words = jnp.pad(words, ((0, lines * plan.steps - words.shape[0]), (0, 0)))
  sides = by_tile(scale, plan), None if offset is None else by_tile(offset, plan)

  def turn(i, y):
    part = jax.lax.dynamic_slice_in_dim(x, i * plan.depth, plan.depth, 1)
    codes = jax.lax.dynamic_slice_in_dim(words, i * lines, lines)
    place = 0 if plan.whole else i
    own = jax.tree.map(lambda s: jax.lax.dynamic_index_in_dim(s, place, keepdims=False), sides)
    w = dequantized(codes_of(codes, bits, signed=offset is None), *own)
    highest = jax.lax.Precision.HIGHEST
    w = w.astype(x.dtype)
    return y + jnp.matmul(part, w, precision=highest, preferred_element_type=jnp.float32)

  # Of the axes, within shard_map, that the loop's results have.
  begin = jnp.zeros_like(x[:, :1], jnp.float32) + jnp.zeros_like(words[:1], jnp.float32)
  return jax.lax.fori_loop(0, plan.steps, turn, begin)
