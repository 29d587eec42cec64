"""Rounded latents to bytes and back, under tables of whole numbers: normal ones and given ones.

Shapes: N symbols, R tables. A table has the integers -255 to 255 and an escape, with frequencies of
2^24 together; a symbol further out is coded as the escape, and stands in full after the stream.

The bytes of a part are the number of its words (a varint), those words, and each escaped symbol as
a varint, in the order of the symbols: 2 (v - 256) for v > 255, 2 (-v - 256) + 1 for v < -255.
"""

import functools
import zlib

import numpy as np
from scipy import special

from jaxcodec.entropy import tables
from jaxcodec.entropy.fields import read_varint, varint
from jaxcodec.errors import CodecError
from jaxcodec.functional.exact import UNIT

REACH = 255
SIZE = 2 * REACH + 2  # Entries of a table.
PRECISION = 24
MOST = 1 << 20  # No symbol is further from zero.
MOST_BYTES = 6  # Of a symbol: one of 2^24 and three bytes of a varint.

LEVELS = 64
_LEAST_SCALE, _MOST_SCALE = 0.11, 256.0
# CRC-32 of what `_normal` makes, as 4-byte little-endian integers.
_NORMAL_CRC = 0x6072CA2D


def encode(symbols: np.ndarray, rows: np.ndarray, cdf: np.ndarray) -> bytes:
  """Integers [N] under rows [N] of cdf [R, SIZE + 1].

  Raises:
    ValueError: if a symbol is further from zero than 2^20, or not under a table.
  """
  writer = Writer(cdf)
  writer.put(symbols, rows)
  return writer.done()


def decode(data: bytes, at: int, rows: np.ndarray, cdf: np.ndarray) -> tuple[np.ndarray, int]:
  """`(symbols int64 [N], where the next part starts)` of the part at `at`.

  Raises:
    CodecError: if it ends too early or is visibly damaged.
  """
  reader = Reader(data, at, cdf)
  symbols = reader.take(rows)
  return symbols, reader.finish()


class Writer:
  """Parts of one stream, one after the other; arguments and errors as of `encode`."""

  def __init__(self, cdf: np.ndarray):
    self._stream = tables.Writer(cdf, PRECISION)
    self._escaped: list[bytes] = []

  def put(self, symbols: np.ndarray, rows: np.ndarray) -> None:
    symbols = symbols.astype(np.int64)
    if symbols.size and np.abs(symbols).max() > MOST:
      raise ValueError(f"a latent is {np.abs(symbols).max()} steps from its mean; at most {MOST}")
    outside = np.abs(symbols) > REACH
    inside = np.where(outside, SIZE - 1, symbols + REACH).astype(np.int32)
    self._stream.put(inside, rows)
    far = symbols[outside].tolist()
    self._escaped += [varint(2 * (abs(v) - REACH - 1) + (v < 0)) for v in far]

  def done(self) -> bytes:
    words = self._stream.words()
    return varint(len(words) // 4) + words + b"".join(self._escaped)


class Reader:
  """The parts of the stream at `at` of some bytes; errors as of `decode`."""

  def __init__(self, data: bytes, at: int, cdf: np.ndarray):
    self._view = memoryview(data)
    count, at = read_varint(self._view, at, "latents")
    self._at = at + 4 * count
    if self._at > len(data):
      raise CodecError("latents end before their last word")
    self._stream = tables.Reader(bytes(self._view[at : self._at]), cdf, PRECISION)

  def take(self, rows: np.ndarray) -> np.ndarray:
    """Symbols int64 [N] of the next part."""
    found = self._stream.take(rows)
    symbols = found.astype(np.int64) - REACH
    for place in np.flatnonzero(found == SIZE - 1):
      value, self._at = read_varint(self._view, self._at, "latents")
      size = value // 2 + REACH + 1
      if size > MOST:
        raise CodecError("a latent is too far from its mean")
      symbols[place] = -size if value % 2 else size
    return symbols

  def finish(self) -> int:
    """Where the stream ends, which must hold no more words."""
    self._stream.finish()
    return self._at


def normal_rows(scales: np.ndarray) -> np.ndarray:
  """Rows of `normal_tables` for scales in units of 1 / 4096: the nearest by ratio of 64."""
  return np.searchsorted(_normal()[1], scales, side="right")


def normal_tables() -> np.ndarray:
  """cdf int64 [64, SIZE + 1] of normal densities about zero, of 64 scales from 0.11 to 256.

  Raises:
    CodecError: if this machine's arithmetic does not give the integers that it should.
  """
  cdf, thresholds = _normal()
  found = zlib.crc32(cdf.astype("<i4").tobytes() + thresholds.astype("<i4").tobytes())
  if found != _NORMAL_CRC:
    raise CodecError("this machine's error function is not precise enough to read latents")
  return cdf


def cdf_of(probabilities: np.ndarray) -> np.ndarray:
  """int64 [R, SIZE + 1] of probabilities float64 [R, 2 * 255 + 1]; escapes get what is left.

  Each entry has floor(p (2^24 - SIZE)) + 1, and zero's entry what then lacks.
  """
  outside = np.maximum(1 - probabilities.sum(axis=1, keepdims=True), 0)
  p = np.concatenate([probabilities, outside], axis=1)
  total = 1 << PRECISION
  frequencies = np.floor(p * (total - SIZE)).astype(np.int64) + 1
  # Below zero only where probabilities add up to more than 1 by rounding: then the largest pays.
  rest = total - frequencies.sum(axis=1)
  at = np.where(rest < 0, frequencies.argmax(axis=1), REACH)
  frequencies[np.arange(len(p)), at] += rest
  return np.pad(np.cumsum(frequencies, axis=1), ((0, 0), (1, 0)))


@functools.cache
def _normal() -> tuple[np.ndarray, np.ndarray]:
  """Tables, and the least scale in units of 1 / 4096 of each row but the first."""
  steps = np.linspace(np.log(_LEAST_SCALE), np.log(_MOST_SCALE), LEVELS)
  scales = np.exp(steps)[:, None]
  k = np.arange(REACH + 1)
  # Halves of a symmetric density, as tails: differences of numbers near 1 would have no digits.
  tails = 0.5 * special.erfc((k - 0.5) / scales / np.sqrt(2))
  last = 0.5 * special.erfc((REACH + 0.5) / scales / np.sqrt(2))
  upper = tails - np.concatenate([tails[:, 1:], last], axis=1)
  cdf = cdf_of(np.concatenate([upper[:, :0:-1], upper], axis=1))
  thresholds = np.ceil(np.exp((steps[1:] + steps[:-1]) / 2) * UNIT).astype(np.int64)
  cdf.setflags(write=False)
  return cdf, thresholds
