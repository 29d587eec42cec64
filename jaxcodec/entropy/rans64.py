"""rANS with a 64-bit state and 32-bit words, byte for byte as CompressAI's coder writes it.

For streams of CompressAI's models, and as the independent check of our other coders. It goes symbol
by symbol in Python, about a million a second: to be fast use `tables` or `functional.rans`.

Shapes: N symbols, R tables of at most K + 2 bounds. Symbol s under row r of the tables is v = s -
offset[r]; v in 0..size[r] - 3 has the interval [cdf[v], cdf[v + 1]) of 2^16. The last interval, m =
size - 2, is an escape: -2v - 1 (v < 0) or 2 (v - m) follows in groups of four raw bits, lowest
first, and before them their number, in groups of up to 15.

Source: CompressAI, cpp_exts/rans; ryg_rans, rans64.h (public domain).
"""

import itertools

import numpy as np

from jaxcodec.errors import CodecError

_LOWEST = 1 << 31
_PRECISION = 16
_RAW_BITS = 4
_MOST_GROUPS = 8  # Of a raw value below 2^32.


def encode(symbols, rows, cdfs, sizes, offsets) -> bytes:
  """Symbols int [N] under rows int [N] as little-endian words, the state's two first.

  Args:
    cdfs: int [R, K + 2], each row rising strictly from 0 to 2^16 at `sizes[r] - 1`.
    sizes: bounds in use of each row, at least 2.
    offsets: the symbol of each row's first interval.

  Raises:
    ValueError: if a symbol is further than 2^31 from its table, or the tables are not valid.
  """
  tables = _tables(cdfs, sizes)
  state, words = _LOWEST, []
  for symbol, row in zip(_integers(symbols)[::-1], _integers(rows)[::-1], strict=True):
    table = tables[row]
    most, value, raw = len(table) - 2, symbol - int(offsets[row]), None
    if value < 0:
      value, raw = most, -2 * value - 1
    elif value >= most:
      value, raw = most, 2 * (value - most)
    if raw is not None:
      for bits in reversed(_raw_groups(raw)):
        if state >= 1 << (63 - _RAW_BITS):
          words.append(state & 0xFFFFFFFF)
          state >>= 32
        state = state << _RAW_BITS | bits
    freq = table[value + 1] - table[value]
    if state >= freq << 47:
      words.append(state & 0xFFFFFFFF)
      state >>= 32
    state = (state // freq << _PRECISION) + state % freq + table[value]
  words += [state >> 32, state & 0xFFFFFFFF]
  return np.array(words[::-1], "<u4").tobytes()


def decode(data: bytes, rows, cdfs, sizes, offsets) -> np.ndarray:
  """The symbols int64 [N] that `encode` turned into `data`.

  Raises:
    CodecError: if `data` ends too early or too late, or is visibly damaged.
    ValueError: if the tables are not valid.
  """
  tables = _tables(cdfs, sizes)
  arrays = [np.asarray(table) for table in tables]
  if len(data) % 4 or len(data) < 8:
    raise CodecError(f"a rANS stream of {len(data)} bytes is not whole words and a state")
  words = np.frombuffer(data, "<u4").tolist()
  state, at = words[1] << 32 | words[0], 2

  def refilled(state: int) -> int:
    nonlocal at
    if state >= _LOWEST:
      return state
    if at == len(words):
      raise CodecError("a rANS stream ends before its last symbol")
    at += 1
    return state << 32 | words[at - 1]

  def raw_bits() -> int:
    nonlocal state
    bits = state & 15
    state = refilled(state >> _RAW_BITS)
    return bits

  symbols = np.zeros(len(rows), np.int64)
  for n, row in enumerate(_integers(rows)):
    table, slot = tables[row], state & 0xFFFF
    value = int(np.searchsorted(arrays[row], slot, side="right")) - 1
    state = refilled((table[value + 1] - table[value]) * (state >> 16) + slot - table[value])
    most = len(table) - 2
    if value == most:
      groups = last = raw_bits()
      while last == 15 and groups <= _MOST_GROUPS:
        last = raw_bits()
        groups += last
      if groups > _MOST_GROUPS:
        raise CodecError("a rANS stream holds a value of more than 32 bits")
      raw = sum(raw_bits() << _RAW_BITS * j for j in range(groups))
      value = -(raw >> 1) - 1 if raw & 1 else (raw >> 1) + most
    symbols[n] = value + int(offsets[row])
  if state != _LOWEST or at != len(words):
    raise CodecError("a rANS stream goes on after its last symbol, or is damaged")
  return symbols


def _raw_groups(raw: int) -> list[int]:
  """The number of groups of four bits, itself in groups of up to 15, then the groups."""
  if raw >> 32:
    raise ValueError("a symbol is further than 2^31 from its table")
  groups = -(-raw.bit_length() // _RAW_BITS)
  count = [15] * (groups // 15) + [groups % 15]
  return count + [raw >> _RAW_BITS * j & 15 for j in range(groups)]


def _integers(values) -> list[int]:
  return np.asarray(values).ravel().tolist()


def _tables(cdfs, sizes) -> list[list[int]]:
  tables = [_integers(row)[: int(size)] for row, size in zip(cdfs, sizes, strict=True)]
  for r, table in enumerate(tables):
    rising = all(a < b for a, b in itertools.pairwise(table))
    if len(table) < 2 or table[0] != 0 or table[-1] != 1 << _PRECISION or not rising:
      raise ValueError(f"table {r} does not rise strictly from 0 to {1 << _PRECISION}")
  return tables
