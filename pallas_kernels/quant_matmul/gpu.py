"""x @ dequantized weights on a GPU: words are read once and stay in registers as they are unpacked.

A word holds a code of each of its fields, so field f of a tile of words is a tile of weights of
every so manieth feature: it meets those columns of x, and nothing has to move between threads.
One row of x is a sum of vectors; more go to tensor cores, 16 at least. Where columns alone do not
fill the card, features are split between programs too, whose sums XLA adds up.

Numerics: as the reference, but that a single row's weights stay in float32.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels import triton
from pallas_kernels.affine_quant.pack import planes, run_length
from pallas_kernels.affine_quant.tiles import INTERLEAVE
from pallas_kernels.dispatch import shape_like
from pallas_kernels.quant_matmul import reference

# Of a tile at most: rows of x, rows of words, columns.
ROWS, WORDS, COLUMNS = 64, 32, 128
# The same for a single row of x, whose products are as many numbers as there are words in a tile.
ONE_WORDS, ONE_COLUMNS = 16, 256
# Programs that fill a card of 132 processors a few times over.
PROGRAMS = 512


def quant_matmul(x, words, scale, offset, *, bits: int, interpret=False):
  """As `reference.quant_matmul`, which it is where a code is spread over words: 3, 5, 6, 7 bits."""
  if len(planes(bits)) > 1:
    return reference.quant_matmul(x, words, scale, offset, bits=bits)
  (rows, length), columns = x.shape, words.shape[1]
  one = rows == 1
  tile_rows = 1 if one else min(ROWS, triton.power(rows))
  tile_words, tile_columns = (ONE_WORDS, ONE_COLUMNS) if one else (WORDS, COLUMNS)
  grid = -(-columns // tile_columns), -(-rows // tile_rows)
  turns = -(-words.shape[0] // tile_words)
  splits = min(max(PROGRAMS // (grid[0] * grid[1]), 1), turns)
  call = pl.pallas_call(
    functools.partial(
      _kernel,
      bits=bits,
      tile=(tile_rows, tile_words, tile_columns),
      turns=-(-turns // splits),
      group=length // scale.shape[0],
      product=triton.products(interpret),
    ),
    out_shape=shape_like(x, (splits, rows, columns), jnp.float32),
    grid=(*grid, splits),
    compiler_params=triton.params(warps=4, stages=2),
    interpret=interpret,
    name="quant_matmul",
  )
  return call(x, words, scale, *(() if offset is None else (offset,))).sum(axis=0)


def _kernel(x_ref, words_ref, scale_ref, *refs, bits, tile, turns, group, product):
  *offset_ref, y_ref = refs
  tile_rows, tile_words, tile_columns = tile
  columns = triton.span(pl.program_id(0) * tile_columns, tile_columns)
  rows = triton.span(pl.program_id(1) * tile_rows, tile_rows)
  part = pl.program_id(2)
  run, one = run_length(bits, INTERLEAVE), tile_rows == 1

  def side(ref, lines):
    """Scales or offsets of weights' rows, or one number for all columns."""
    return triton.load(ref, lines, triton.span(0, 1) if ref.shape[1] == 1 else columns)

  def turn(i, total):
    lines = triton.span((part * turns + i) * tile_words, tile_words)
    words = triton.load(words_ref, lines, columns)
    first = jax.lax.div(lines, INTERLEAVE) * run + jax.lax.rem(lines, INTERLEAVE)
    sides = None
    for field in range(32 // bits):
      feature = first + field * INTERLEAVE
      # A run that lies in one group has one scale for all fields of a word.
      if sides is None or group % run:
        line = jax.lax.div(feature, group)
        sides = [side(ref, line).astype(jnp.float32) for ref in (scale_ref, *offset_ref)]
      weights = _codes(words, bits, field, signed=not offset_ref).astype(jnp.float32) * sides[0]
      if offset_ref:
        weights = weights + sides[1]
      # Zero past the last feature.
      x = triton.load(x_ref, rows, feature)
      if one:
        total = total + x.reshape(tile_words, 1).astype(jnp.float32) * weights
      else:
        total = total + product(x, weights.astype(x.dtype), 1, 0)
    return total

  start = jnp.zeros((tile_words if one else tile_rows, tile_columns), jnp.float32)
  total = jax.lax.fori_loop(0, turns, turn, start)
  if one:
    total = total.sum(axis=0, keepdims=True)
  triton.store(y_ref, total, part, rows, columns)


def _codes(words, bits, field, *, signed):
  if signed:
    return words << (32 - bits * (field + 1)) >> (32 - bits)
  return words >> (bits * field) & ((1 << bits) - 1)
