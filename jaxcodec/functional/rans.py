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

from pallas_kernels import rans_decode, rans_encode
from pallas_kernels.rans_decode import pop as pop, read as read, refill as refill, slots as slots
from pallas_kernels.rans_encode import LOWEST_STATE as LOWEST_STATE


class Streams(NamedTuple):
  """What `encode` leaves: uint32 words [L, N], of which lane l has counts[l], and states [L]."""

  words: jax.Array
  counts: jax.Array
  states: jax.Array


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

  Raises:
    ValueError: if shapes or precision do not fit. Tables and rows are not looked at.
  """
  symbols, states, at = rans_decode(*streams, cdf, rows, precision)
  return symbols, (states == LOWEST_STATE) & (at == streams.counts)
