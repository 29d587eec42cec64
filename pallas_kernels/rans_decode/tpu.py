"""The decoder's loop on a TPU: states, places and symbols of 1024 lanes are a register each.

Terms: N steps, L lanes, R tables, K entries. The grid goes over blocks of 1024 lanes and, within,
over blocks of steps; a block's words all lie in VMEM, the tables in scalar memory.

A TPU has no gather from memory lane by lane. A symbol is found by comparing its slot with every
bound of every table, its word by comparing the lane's place with that of every word so far: R K and
up to N steps of a few operations on a register, for 1024 symbols.

Numerics: as `rans_encode`, bits of unsigned numbers in int32.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.dispatch import shape_like
from pallas_kernels.rans_encode import WORD_BITS

ROWS, LANES = 8, 128
STEPS = 64
# Words of so many steps take 4 MB of VMEM, of which there are two at a time.
MOST_STEPS = 1024
# Bounds in scalar memory, and operations a symbol: beyond, XLA's gathers are thought to be better.
MOST_BOUNDS = 4096


def fits(cdf: jax.Array, rows: jax.Array) -> bool:
  return rows.shape[0] <= MOST_STEPS and cdf.size <= MOST_BOUNDS


def rans_decode(words, counts, states, cdf, rows, precision: int, interpret=False):
  """As the reference."""
  steps, lanes = rows.shape
  if steps == 0 or lanes == 0:
    return jnp.zeros(rows.shape, jnp.int32), states, jnp.zeros_like(counts)
  blocks = pl.cdiv(steps, STEPS)
  width = pl.cdiv(lanes, ROWS * LANES) * ROWS

  def laid_out(x, height):
    x = jax.lax.bitcast_convert_type(x, jnp.int32)
    x = jnp.pad(x, ((0, height - x.shape[0]), (0, width * LANES - lanes)))
    return x.reshape(height, width, LANES)

  block = pl.BlockSpec((STEPS, ROWS, LANES), lambda i, n: (n, i, 0))
  numbers = pl.BlockSpec((ROWS, LANES), lambda i, n: (i, 0))
  # As many words as steps are all that a lane can read.
  given = words.T[:steps]
  symbols, states, at = pl.pallas_call(
    functools.partial(_kernel, precision=precision, steps=steps),
    out_shape=(
      shape_like(words, (blocks * STEPS, width, LANES), jnp.int32),
      shape_like(words, (width, LANES), jnp.int32),
      shape_like(words, (width, LANES), jnp.int32),
    ),
    grid=(width // ROWS, blocks),
    in_specs=[
      pl.BlockSpec(memory_space=pltpu.SMEM),
      pl.BlockSpec((blocks * STEPS, ROWS, LANES), lambda i, n: (0, i, 0)),
      block,
      numbers,
      numbers,
    ],
    out_specs=(block, numbers, numbers),
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
    cost_estimate=pl.CostEstimate(
      flops=rows.size * (7 * cdf.size + steps), bytes_accessed=12 * rows.size, transcendentals=0
    ),
    interpret=interpret,
    name="rans_decode",
  )(
    jax.lax.bitcast_convert_type(cdf, jnp.int32),
    laid_out(given, blocks * STEPS),
    laid_out(rows, blocks * STEPS),
    laid_out(counts[None], 1)[0],
    laid_out(states[None], 1)[0],
  )
  states = jax.lax.bitcast_convert_type(states.reshape(-1)[:lanes], jnp.uint32)
  return symbols.reshape(blocks * STEPS, -1)[:steps, :lanes], states, at.reshape(-1)[:lanes]


def _kernel(
  cdf_ref, words_ref, rows_ref, counts_ref, first_ref, symbols_ref, states_ref, at_ref,
  *, precision: int, steps: int,
):  # fmt: skip
  turn = pl.program_id(1)

  @pl.when(turn == 0)
  def _():
    states_ref[...] = first_ref[...]
    at_ref[...] = jnp.zeros(at_ref.shape, jnp.int32)

  def step(i, carry):
    states, at = carry
    slot = states & ((1 << precision) - 1)
    symbol, start, end = _find(cdf_ref, rows_ref[i], slot, 1 << precision)
    symbols_ref[i] = symbol
    rest = jax.lax.shift_right_logical(states, jnp.full_like(states, precision))
    states = (end - start) * rest + slot - start
    wanting = jax.lax.shift_right_logical(states, jnp.full_like(states, WORD_BITS)) == 0
    word = jnp.where(at < counts_ref[...], _word(words_ref, at, turn * STEPS + i), 0)
    states = jnp.where(wanting, (states << WORD_BITS) | word, states)
    return states, at + wanting.astype(jnp.int32)

  number = jnp.minimum(STEPS, steps - turn * STEPS)
  states_ref[...], at_ref[...] = jax.lax.fori_loop(0, number, step, (states_ref[...], at_ref[...]))


def _find(cdf_ref, row, slot, top: int):
  """Symbol and bounds of the interval of `cdf[row]` that holds each slot, a register each."""
  tables, bounds = cdf_ref.shape

  def table(r, found):
    # In the lanes of other tables no bound is at most the one nor above the other.
    mine = row == r
    low, high = jnp.where(mine, slot, -1), jnp.where(mine, slot, top)

    def bound(k, found):
      symbol, start, end = found
      value = cdf_ref[r, k]
      passed = (value <= low) & (k < bounds - 1)
      symbol = jnp.where(passed, k, symbol)
      start = jnp.where(passed, value, start)
      return symbol, start, jnp.where(value > high, jnp.minimum(end, value), end)

    return jax.lax.fori_loop(0, bounds, bound, found)

  zeros = jnp.zeros(slot.shape, jnp.int32)
  return jax.lax.fori_loop(0, tables, table, (zeros, zeros, zeros + top))


def _word(words_ref, at, newest):
  """The word at each lane's place, which is at most that of the newest step."""

  def some(block, word):
    for row in range(ROWS):
      place = block * ROWS + row
      word = jnp.where(at == place, words_ref[place], word)
    return word

  return jax.lax.fori_loop(0, jax.lax.div(newest, ROWS) + 1, some, jnp.zeros(at.shape, jnp.int32))
