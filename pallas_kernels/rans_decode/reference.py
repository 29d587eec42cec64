"""The decoder's loop in plain JAX, on unsigned integers of 32 bits: what every kernel must give.

Shapes: N steps, L lanes, R tables, K entries.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.rans_encode import LOWEST_STATE, WORD_BITS


def slots(states, precision: int):
  """Where in [0, 2^P) each lane's next symbol lies: within its interval."""
  return states & ((1 << precision) - 1)


def pop(states, start, freq, precision: int):
  """`(states, wanting)` without the symbol of that interval; who is below 2^16 wants a word."""
  states = freq * (states >> precision) + slots(states, precision) - start
  return states, states < LOWEST_STATE


def refill(states, words, wanting):
  return jnp.where(wanting, (states << WORD_BITS) | words, states)


def read(words, counts, lanes, at):
  """The next word of each lane, of words [L, N]; 0 after its last."""
  if words.shape[1] == 0:  # From there not even nothing can be gathered.
    return jnp.zeros(lanes.shape, words.dtype)
  found = words.at[lanes, at].get(mode="fill", fill_value=0)
  return jnp.where(at < counts, found, 0)


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


def rans_decode(words, counts, states, cdf, rows, precision: int):
  """`(symbols int32 [N, L], states [L], how many words each lane read int32 [L])`."""
  lanes = jnp.arange(rows.shape[1])
  starts, ends = cdf[:, :-1], cdf[:, 1:]

  def step(carry, row):
    states, at = carry
    symbol = find(cdf, row, slots(states, precision))
    start = starts[row, symbol]
    states, wanting = pop(states, start, ends[row, symbol] - start, precision)
    states = refill(states, read(words, counts, lanes, at), wanting)
    return (states, at + wanting), symbol

  (states, at), symbols = jax.lax.scan(step, (states, jnp.zeros_like(counts)), rows)
  return symbols, states, at
