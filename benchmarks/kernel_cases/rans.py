"""The loops of the coder by asymmetric numeral systems.

Beside plain JAX that finds a symbol by comparing with all bounds, and `constriction`, a library in
Rust, whose one stream has as many symbols as our lanes have together.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kernel_cases.case import HostCase, TpuCase
from kernel_cases.vector import jax_form
from pallas_kernels import rans_decode, rans_encode

# Steps, lanes, symbols of one table.
STEPS, LANES, SYMBOLS = 1000, 1024, 256
PRECISION = 16


def data() -> tuple[np.ndarray, np.ndarray]:
  """A table [1, SYMBOLS + 1] of falling probabilities, and symbols [STEPS, LANES] drawn by it."""
  odds = 0.98 ** np.arange(SYMBOLS)
  bounds = np.cumsum(odds) / odds.sum() * ((1 << PRECISION) - SYMBOLS) + np.arange(1, SYMBOLS + 1)
  cdf = np.r_[0, np.round(bounds)].astype(np.int64)
  slots = np.random.default_rng(0).integers(0, 1 << PRECISION, (STEPS, LANES))
  return cdf[None].astype(np.uint32), np.searchsorted(cdf, slots, side="right") - 1


def intervals() -> tuple[np.ndarray, np.ndarray]:
  cdf, symbols = data()
  return cdf[0, symbols], cdf[0, symbols + 1] - cdf[0, symbols]


def plain_push(start, freq):
  def step(states, interval):
    start, freq = interval
    written = states >= freq.astype(jnp.uint32) << (32 - PRECISION)
    written &= freq < 1 << PRECISION
    words = states & 0xFFFF
    states = jnp.where(written, states >> 16, states)
    return (states // freq << PRECISION) + states % freq + start, (words, written)

  begin = jnp.full(start.shape[1], 1 << 16, jnp.uint32)
  return jax.lax.scan(step, begin, (start, freq), reverse=True)


def plain_pop(words, states, cdf):
  lanes = jnp.arange(states.shape[0])

  def step(carry, _):
    states, at = carry
    slot = states & ((1 << PRECISION) - 1)
    symbol = (cdf[0, 1:] <= slot[:, None]).sum(axis=1)
    start, end = cdf[0, symbol], cdf[0, symbol + 1]
    states = (end - start) * (states >> PRECISION) + slot - start
    wanting = states < 1 << 16
    states = jnp.where(wanting, states << 16 | words[lanes, at], states)
    return (states, at + wanting), symbol

  return jax.lax.scan(step, (states, jnp.zeros_like(lanes)), length=STEPS)[1]


def streams():
  """Words [LANES, STEPS], their counts and the last states."""
  states, words, written = jax.jit(functools.partial(rans_encode, precision=PRECISION))(
    *intervals()
  )
  words, written = np.asarray(words), np.asarray(written)
  out = np.zeros((LANES, STEPS), np.uint32)
  for lane in range(LANES):
    own = words[written[:, lane], lane]
    out[lane, : len(own)] = own
  return out, written.sum(axis=0).astype(np.int32), np.asarray(states)


def constriction_form(reading: bool):
  def make():
    import constriction

    cdf, symbols = data()
    odds = np.diff(cdf[0].astype(np.float64)) / (1 << PRECISION)
    model = constriction.stream.model.Categorical(odds, perfect=False)
    symbols = symbols.ravel().astype(np.int32)

    def write():
      coder = constriction.stream.stack.AnsCoder()
      coder.encode_reverse(symbols, model)
      return coder.get_compressed()

    written = write()

    def read():
      return constriction.stream.stack.AnsCoder(written).decode(model, symbols.size)

    assert (read() == symbols).all()
    return read if reading else write

  return make


def host_cases() -> list[HostCase]:
  size = f"{STEPS} x {LANES}, {SYMBOLS} symbols"

  def decoder(function, with_rows: bool):
    def make():
      words, counts, states = (jnp.asarray(x) for x in streams())
      cdf = jnp.asarray(data()[0])
      rows = jnp.zeros((STEPS, LANES), jnp.int32)
      given = (words, counts, states, cdf, rows) if with_rows else (words, states, cdf)
      compiled = jax.jit(function)
      return lambda: jax.block_until_ready(compiled(*given))

    return make

  push = functools.partial(rans_encode, precision=PRECISION)
  pop = functools.partial(rans_decode, precision=PRECISION)
  given = (lambda: intervals()[0]), (lambda: intervals()[1])
  encode = {
    "ours": jax_form(push, *given),
    "plain JAX": jax_form(plain_push, *given),
    "constriction": constriction_form(reading=False),
  }
  decode = {
    "ours": decoder(pop, True),
    "plain JAX": decoder(plain_pop, False),
    "constriction": constriction_form(reading=True),
  }
  # Intervals to words and whether they were written; words and numbers of tables to symbols.
  symbols = STEPS * LANES
  return [
    HostCase("rans_encode", size, encode, 0.0, 13.0 * symbols),
    HostCase("rans_decode", size, decode, 0.0, 12.0 * symbols),
  ]


def tpu_cases() -> list[TpuCase]:
  """Steps, lanes, tables, bounds. The work is of vectors, not products: only bytes are a bound."""
  steps, lanes, tables, bounds = 1024, 8192, 1, 257
  by_step = jax.ShapeDtypeStruct((steps, lanes), jnp.uint32)
  lane = by_step.update(shape=(lanes,))
  given = (by_step.update(shape=(lanes, steps)), lane, lane, lane.update(shape=(tables, bounds)))
  size = f"{steps} x {lanes}"
  encode = functools.partial(rans_encode, precision=16)
  decode = functools.partial(rans_decode, precision=16)
  return [
    TpuCase("rans_encode", size, encode, (by_step, by_step), "bfloat16", 0),
    TpuCase("rans_decode", f"{size}, {bounds} bounds", decode, (*given, by_step), "bfloat16", 0),
  ]
