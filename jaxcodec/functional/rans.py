"""Range asymmetric numeral systems over many lanes in lockstep, on 32-bit unsigned integers alone.

Shapes: N steps, L lanes, R tables, K entries. Lane l codes the symbols of column l, one a step,
with a state of its own: nothing passes between lanes, so thousands of streams are coded at once,
and the shapes are static. Probabilities are integers: a symbol has the interval [start, start +
freq) of [0, 2^P), P at most 16.

A lane's state x lies in [2^16, 2^32) and starts at 2^16. To push a symbol, a word of 16 bits leaves
the state where x >= freq * 2^(32 - P); then x becomes (x // freq) * 2^P + x % freq + start. A step
thus writes at most one word a lane: N words and the state (4 bytes) are the most a lane can need.
Symbols are pushed last to first and popped first to last. After the last one is popped the state
must be 2^16 again and all words used, which shows most damage.

Source: J. Duda, https://arxiv.org/abs/1311.2540; F. Giesen, https://arxiv.org/abs/1402.3392.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import rans_encode
from pallas_kernels.rans_encode import (
  LOWEST_STATE as LOWEST_STATE,
  MAX_PRECISION as MAX_PRECISION,
  WORD_BITS as WORD_BITS,
)


class Streams(NamedTuple):
  """What `encode` leaves: uint32 words [L, N], of which lane l has counts[l], and states [L]."""

  words: jax.Array
  counts: jax.Array
  states: jax.Array


def slots(states, precision: int):
  """Where in [0, 2^P) each lane's next symbol lies: within its interval."""
  return states & ((1 << precision) - 1)


def pop(states, start, freq, precision: int):
  """`(states, wanting)` without the symbol of that interval; who is below 2^16 wants a word."""
  states = freq * (states >> precision) + slots(states, precision) - start
  return states, states < LOWEST_STATE


def refill(states, words, wanting):
  return jnp.where(wanting, (states << WORD_BITS) | words, states)


def encode(start, freq, precision: int) -> Streams:
  """Streams of N symbols a lane, from their intervals: uint32 [N, L] each.

  Raises:
    ValueError: if shapes or precision do not fit. Intervals are not looked at.
  """
  states, words, written = rans_encode(start, freq, precision)
  # Those of the first step come first: the order in which they are read.
  place = jnp.where(written, jnp.cumsum(written, axis=0) - 1, len(start))
  lane = jnp.broadcast_to(jnp.arange(start.shape[1]), place.shape)
  packed = (
    jnp.zeros((start.shape[1], len(start)), jnp.uint32).at[lane, place].set(words, mode="drop")
  )
  return Streams(packed, written.sum(axis=0, dtype=jnp.int32), states)


def decode(streams: Streams, cdf, rows, precision: int):
  """`(symbols int32 [N, L], intact bool [L])` of what was coded under rows of a table.

  Args:
    cdf: uint32 [R, K + 1], each row rising from 0 to 2^P; an entry of an empty interval never
    comes. rows: int32 [N, L], which row each symbol was coded under.

  Of any words whatever the symbols are within 0..K - 1; `intact` says whether each lane ended in
  its first state with all its words read.
  """
  _require_precision(precision)
  cdf = cdf.astype(jnp.uint32)
  lanes = jnp.arange(rows.shape[1])
  starts, ends = cdf[:, :-1], cdf[:, 1:]

  def step(carry, row):
    states, at = carry
    symbol = find(cdf, row, slots(states, precision))
    start = starts[row, symbol]
    states, wanting = pop(states, start, ends[row, symbol] - start, precision)
    states = refill(states, read(streams, lanes, at), wanting)
    return (states, at + wanting), symbol

  begin = streams.states, jnp.zeros_like(streams.counts)
  (states, at), symbols = jax.lax.scan(step, begin, rows)
  return symbols, (states == LOWEST_STATE) & (at == streams.counts)


def read(streams: Streams, lanes, at):
  """The next word of each lane; 0 after its last."""
  words = streams.words.at[lanes, at].get(mode="fill", fill_value=0)
  return jnp.where(at < streams.counts, words, 0)


def find(cdf, row, slot):
  """The symbol int32 [L] whose interval in `cdf[row]` holds each slot: the last that starts there
  or before."""
  size = cdf.shape[1] - 1
  low = jnp.zeros(slot.shape, jnp.int32)
  for bit in reversed(range((size - 1).bit_length())):
    trial = low + (1 << bit)
    inside = trial < size
    above = cdf[row, jnp.where(inside, trial, 0)] <= slot
    low = jnp.where(inside & above, trial, low)
  return low


def _require_precision(precision: int) -> None:
  if not 1 <= precision <= MAX_PRECISION:
    raise ValueError(f"precision must be 1 to {MAX_PRECISION} bits, not {precision}")
