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
# With more rows of x than these, dequantizing all weights first is quicker.
MOST_ROWS = 16
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
      interpret=interpret,
    ),
    out_shape=shape_like(x, (splits, rows, columns), jnp.float32),
    grid=(*grid, splits),
    compiler_params=triton.params(warps=4, stages=2),
    interpret=interpret,
    name="quant_matmul",
  )
  return call(x, words, scale, *(() if offset is None else (offset,))).sum(axis=0)


def _kernel(x_ref, words_ref, scale_ref, *refs, bits, tile, turns, group, interpret):
  *offset_ref, y_ref = refs
  product, fma = triton.products(interpret), triton.fused(interpret)
  between = triton.between(interpret)
  tile_rows, tile_words, tile_columns = tile
  columns = triton.span(pl.program_id(0) * tile_columns, tile_columns)
  rows = triton.span(pl.program_id(1) * tile_rows, tile_rows)
  part = pl.program_id(2)
  run, fields = run_length(bits, INTERLEAVE), 32 // bits
  # Codes come as numbers between 1 and 2, see `triton.between`.
  steps, zero = 1 << bits, 1.0 if offset_ref else 1.5

  def side(ref, lines):
    """Scales or offsets of weights' rows, or one number for all columns."""
    found = triton.load(ref, lines, triton.span(0, 1) if ref.shape[1] == 1 else columns)
    return found.astype(jnp.float32)

  def sides(feature):
    """What such a number is multiplied by, and what is added."""
    line = jax.lax.div(feature, group)
    scale = steps * side(scale_ref, line)
    return scale, (side(offset_ref[0], line) if offset_ref else 0.0) - zero * scale

  def lines_of(i):
    return triton.span((part * turns + i) * tile_words, tile_words)

  def turn(i, kept):
    total, words = kept
    lines = lines_of(i)
    # The next words are on their way while these are multiplied.
    ahead = triton.load(words_ref, lines_of(i + 1), columns)
    first = jax.lax.div(lines, INTERLEAVE) * run + jax.lax.rem(lines, INTERLEAVE)
    # A run that lies in one group has one scale for all fields of a word.
    alike = group % run == 0
    scale, shift = sides(first)
    summed, inputs = jnp.zeros(words.shape, jnp.float32), jnp.zeros((tile_words, 1), jnp.float32)
    for field in range(fields):
      feature = first + field * INTERLEAVE
      if field and not alike:
        scale, shift = sides(feature)
      numbers = between(words, bits, field, signed=not offset_ref)
      # Zero past the last feature.
      x = triton.load(x_ref, rows, feature)
      if tile_rows > 1:
        total = total + product(x, fma(numbers, scale, shift).astype(x.dtype), 1, 0)
        continue
      x = x.reshape(tile_words, 1).astype(jnp.float32)
      summed, inputs = fma(numbers, x, summed), inputs + x
      if not alike or field == fields - 1:
        total = fma(summed, scale, fma(inputs, shift, total))
        summed, inputs = jnp.zeros_like(summed), jnp.zeros_like(inputs)
    return total, ahead

  start = jnp.zeros((tile_words if tile_rows == 1 else tile_rows, tile_columns), jnp.float32)
  words = triton.load(words_ref, lines_of(0), columns)
  total, _ = jax.lax.fori_loop(0, turns, turn, (start, words))
  if tile_rows == 1:
    total = total.sum(axis=0, keepdims=True)
  triton.store(y_ref, total, part, rows, columns)
