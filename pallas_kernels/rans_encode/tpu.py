"""The encoder's loop on a TPU: the states of 1024 lanes are one register, for all steps.

Terms: N steps, L lanes. The grid goes over blocks of 1024 lanes and, within, over blocks of steps
from the last to the first.

Numerics: integers alone decide. Mosaic has no unsigned numbers and no division of vectors, so bits
of unsigned numbers are held in int32, where sums, products and shifts of zeros are the same; a
quotient is guessed in float32 and put right by its remainder, whatever the guess is off by.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.dispatch import shape_like
from pallas_kernels.rans_encode.reference import LOWEST_STATE, WORD_BITS, Pushed

# A register: 8 x 128 lanes.
ROWS, LANES = 8, 128
# Four arrays of 256 KB each, of which there are two at a time: 2 MB of VMEM.
STEPS = 64


def rans_encode(start: jax.Array, freq: jax.Array, precision: int, interpret=False) -> Pushed:
  """As the reference."""
  steps, lanes = start.shape
  if steps == 0 or lanes == 0:
    states = jnp.full((lanes,), LOWEST_STATE, jnp.uint32)
    return Pushed(states, jnp.zeros_like(start), jnp.zeros(start.shape, bool))
  blocks = pl.cdiv(steps, STEPS)
  # Lanes and steps that are not there push a symbol of all probability, which changes nothing. The
  # steps come before the first, and so are pushed last.
  missing = (blocks * STEPS - steps, 0), (0, -lanes % (ROWS * LANES))
  start = jnp.pad(start, missing)
  freq = jnp.pad(freq, missing, constant_values=1 << precision)
  shape = blocks * STEPS, start.shape[1] // LANES, LANES
  start, freq = (jax.lax.bitcast_convert_type(x, jnp.int32).reshape(shape) for x in (start, freq))
  block = pl.BlockSpec((STEPS, ROWS, LANES), lambda i, n: (blocks - 1 - n, i, 0))
  states, words, written = pl.pallas_call(
    functools.partial(_kernel, precision=precision),
    out_shape=(
      shape_like(start, shape[1:], jnp.int32),
      shape_like(start, shape, jnp.int32),
      shape_like(start, shape, jnp.int32),
    ),
    grid=(shape[1] // ROWS, blocks),
    in_specs=[block, block],
    out_specs=(pl.BlockSpec((ROWS, LANES), lambda i, n: (i, 0)), block, block),
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
    cost_estimate=pl.CostEstimate(
      flops=30 * start.size, bytes_accessed=16 * start.size, transcendentals=0
    ),
    interpret=interpret,
    name="rans_encode",
  )(start, freq)
  words, written = (x.reshape(shape[0], -1)[-steps:, :lanes] for x in (words, written))
  states = states.reshape(-1)[:lanes]
  return Pushed(
    jax.lax.bitcast_convert_type(states, jnp.uint32),
    jax.lax.bitcast_convert_type(words, jnp.uint32),
    written != 0,
  )


def _kernel(start_ref, freq_ref, states_ref, words_ref, written_ref, *, precision: int):
  @pl.when(pl.program_id(1) == 0)
  def _():
    states_ref[...] = jnp.full(states_ref.shape, LOWEST_STATE, jnp.int32)

  def step(i, states):
    at = STEPS - 1 - i
    start, freq = start_ref[at], freq_ref[at]
    # Both sides are below 2^31, so that signs do not matter.
    written = jax.lax.shift_right_logical(states, 32 - precision) >= freq
    words_ref[at] = states & 0xFFFF
    written_ref[at] = written.astype(jnp.int32)
    states = jnp.where(written, jax.lax.shift_right_logical(states, WORD_BITS), states)
    quotient, rest = divide(states, freq)
    return (quotient << precision) + rest + start

  states_ref[...] = jax.lax.fori_loop(0, STEPS, step, states_ref[...])


def divide(states, freq):
  """Quotient and remainder of unsigned `states` by `freq` <= 2^16, the quotient below 2^31."""
  high = jax.lax.shift_right_logical(states, 16).astype(jnp.float32)
  low = (states & 0xFFFF).astype(jnp.float32)
  share = 1.0 / freq.astype(jnp.float32)
  quotient = ((high * 65536.0 + low) * share).astype(jnp.int32)
  # The first guess is off by some 2^-22 of the quotient, the second by one or two.
  for _ in range(2):
    rest = states - quotient * freq
    quotient += jnp.floor(rest.astype(jnp.float32) * share).astype(jnp.int32)
  rest = states - quotient * freq
  for sign in (-1, 1):
    off = (rest < 0) if sign < 0 else (rest >= freq)
    quotient = jnp.where(off, quotient + sign, quotient)
    rest = jnp.where(off, rest - sign * freq, rest)
  return quotient, rest
