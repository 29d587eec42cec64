"""The encoder's loop in plain JAX, on unsigned integers of 32 bits: what every kernel must give."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

LOWEST_STATE = 1 << 16
WORD_BITS = 16


class Pushed(NamedTuple):
  """What the loop leaves: states uint32 [L]; of each step the word that a lane would write, uint32
  [N, L], and whether it did, bool [N, L]."""

  states: jax.Array
  words: jax.Array
  written: jax.Array


def push(states, start, freq, precision: int):
  """`(states, words, written)` after one more symbol a lane; all [L], `written` is bool.

  freq is 1 to 2^P. A symbol of freq 2^P costs nothing and changes nothing.
  """
  written = states >> (32 - precision) >= freq
  words = states & 0xFFFF
  states = jnp.where(written, states >> WORD_BITS, states)
  # Both at once: XLA on CPU has the remainder with the quotient, sooner than by a product.
  return (states // freq << precision) + states % freq + start, words, written


def rans_encode(start: jax.Array, freq: jax.Array, precision: int) -> Pushed:
  def step(states, interval):
    start, freq = interval
    states, words, written = push(states, start, freq, precision)
    return states, (words, written)

  # Of the axes, within shard_map, that the loop's results have.
  begin = jnp.zeros_like((start + freq).sum(axis=0)) + jnp.uint32(LOWEST_STATE)
  states, (words, written) = jax.lax.scan(step, begin, (start, freq), reverse=True)
  return Pushed(states, words, written)
