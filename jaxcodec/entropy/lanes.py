"""The lanes of `functional.rans` in NumPy: what they must equal, and a host's way to read them.

Shapes as there: N steps, L lanes, R tables, K entries.
"""

import numpy as np

from jaxcodec.functional.rans import LOWEST_STATE


def encode(start: np.ndarray, freq: np.ndarray, precision: int):
  """`(words uint32 [L, N], counts int32 [L], states uint32 [L])` of intervals [N, L] each."""
  steps, lanes = start.shape
  states = np.full(lanes, LOWEST_STATE, np.uint64)
  words = np.zeros((steps, lanes), np.uint32)
  written = np.zeros((steps, lanes), bool)
  start, freq = start.astype(np.uint64), freq.astype(np.uint64)
  for n in reversed(range(steps)):
    written[n] = states >= freq[n] << np.uint64(32 - precision)
    words[n] = states & np.uint64(0xFFFF)
    states = np.where(written[n], states >> np.uint64(16), states)
    quotient, rest = np.divmod(states, freq[n])
    states = (quotient << np.uint64(precision)) + rest + start[n]
  packed = np.zeros((lanes, steps), np.uint32)
  counts = written.sum(axis=0).astype(np.int32)
  for lane in range(lanes):
    packed[lane, : counts[lane]] = words[written[:, lane], lane]
  return packed, counts, states.astype(np.uint32)


def decode(words, counts, states, cdf: np.ndarray, rows: np.ndarray, precision: int):
  """`(symbols int32 [N, L], intact bool [L])` of streams coded under `cdf[rows]`."""
  steps, lanes = rows.shape
  every = np.arange(lanes)
  table = np.zeros((len(cdf), 1 << precision), np.int32)
  for row, bounds in zip(table, cdf.astype(np.int64), strict=True):
    row[:] = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
  cdf = cdf.astype(np.uint64)
  states, at = states.astype(np.uint64), np.zeros(lanes, np.int64)
  padded = np.concatenate([words, np.zeros((lanes, 1), np.uint32)], axis=1).astype(np.uint64)
  symbols = np.zeros((steps, lanes), np.int32)
  for n, row in enumerate(rows):
    slot = states & np.uint64((1 << precision) - 1)
    symbol = table[row, slot.astype(np.int64)]
    start, stop = cdf[row, symbol], cdf[row, symbol + 1]
    states = (stop - start) * (states >> np.uint64(precision)) + slot - start
    wanting = states < LOWEST_STATE
    word = np.where(at < counts, padded[every, np.minimum(at, steps)], np.uint64(0))
    states = np.where(wanting, states << np.uint64(16) | word, states)
    at += wanting
    symbols[n] = symbol
  return symbols, (states == LOWEST_STATE) & (at == counts)
