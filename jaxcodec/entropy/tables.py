"""One stream of symbols under a few given tables, on the host: `constriction`, a call a table.

Shapes: N symbols, R tables of K entries. Symbols under one table are coded together (those of row 0
in their order, then those of row 1, ...), as their rows are known to both sides. So the time goes
into the coder, not into Python. The tables' integers reach the coder as `entropy.adaptive`
explains.

Source: https://docs.rs/constriction, stream::queue (32-bit words, 64-bit state, precision 24).
"""

import constriction
import numpy as np

from jaxcodec.errors import CodecError

_CODER_PRECISION = 24


def encode(symbols: np.ndarray, rows: np.ndarray, cdf: np.ndarray, precision: int = 16) -> bytes:
  """Symbols int32 [N], each in 0..K - 1, under rows int [N], as little-endian 32-bit words.

  Args:
    cdf: int [R, K + 1], each row rising strictly from 0 to 2^precision.

  Raises:
    ValueError: if shapes or tables are not valid, or a symbol or a row is out of range.
  """
  writer = Writer(cdf, precision)
  writer.put(symbols, rows)
  return writer.words()


def decode(data: bytes, rows: np.ndarray, cdf: np.ndarray, precision: int = 16) -> np.ndarray:
  """The symbols int32 [N] that `encode` turned into `data`; in range whatever `data` is.

  Raises:
    ValueError: as `encode`.
    CodecError: if `data` is visibly not a stream of these symbols.
  """
  reader = Reader(data, cdf, precision)
  symbols = reader.take(rows)
  reader.finish()
  return symbols


class Writer:
  """A stream that symbols are put into in several calls; arguments and errors as of `encode`."""

  def __init__(self, cdf: np.ndarray, precision: int = 16):
    self._models, self._size = _models(cdf, precision), cdf.shape[1] - 1
    self._encoder = constriction.stream.queue.RangeEncoder()

  def put(self, symbols: np.ndarray, rows: np.ndarray) -> None:
    if symbols.shape != rows.shape or symbols.ndim != 1:
      raise ValueError(f"symbols {symbols.shape} and rows {rows.shape} must be [N] both")
    if symbols.size and not 0 <= symbols.min() <= symbols.max() < self._size:
      raise ValueError("a symbol is outside its table")
    order, bounds = _grouped(rows, len(self._models))
    by_row = symbols.astype(np.int32)[order]
    for row in np.flatnonzero(np.diff(bounds)):
      self._encoder.encode(by_row[bounds[row] : bounds[row + 1]], self._models[row])

  def words(self) -> bytes:
    return self._encoder.get_compressed().astype("<u4").tobytes()


class Reader:
  """The symbols of a stream, call by call as they were put; arguments and errors as of `decode`."""

  def __init__(self, data: bytes, cdf: np.ndarray, precision: int = 16):
    self._models = _models(cdf, precision)
    if len(data) % 4:
      raise CodecError(f"range coded data of {len(data)} bytes is not whole 32-bit words")
    words = np.frombuffer(data, "<u4").astype(np.uint32)
    self._decoder = constriction.stream.queue.RangeDecoder(words)

  def take(self, rows: np.ndarray) -> np.ndarray:
    order, bounds = _grouped(rows, len(self._models))
    by_row = np.zeros(len(rows), np.int32)
    for row in np.flatnonzero(np.diff(bounds)):
      start, stop = bounds[row], bounds[row + 1]
      try:
        by_row[start:stop] = self._decoder.decode(self._models[row], int(stop - start))
      except AssertionError as error:  # What constriction raises for impossible data.
        raise CodecError("range coded data is damaged") from error
    symbols = np.zeros_like(by_row)
    symbols[order] = by_row
    return symbols

  def finish(self) -> None:
    """Raises CodecError if there is more than was taken."""
    if not self._decoder.maybe_exhausted():
      raise CodecError("range coded data goes on after the last symbol")


def _grouped(rows: np.ndarray, num_tables: int) -> tuple[np.ndarray, np.ndarray]:
  """The order that brings equal rows together, and where each row starts and ends in it."""
  if rows.ndim != 1 or (rows.size and not 0 <= rows.min() <= rows.max() < num_tables):
    raise ValueError(f"rows must be [N] and within 0..{num_tables - 1}")
  # 16-bit keys are sorted by radix, several times faster than wider ones.
  keys = rows.astype(np.uint16 if num_tables <= 1 << 16 else np.int64)
  counts = np.bincount(keys, minlength=num_tables)
  return np.argsort(keys, kind="stable"), np.concatenate([[0], np.cumsum(counts)])


def _models(cdf: np.ndarray, precision: int) -> list:
  frequencies = np.diff(cdf.astype(np.int64), axis=1)
  whole = cdf[:, 0].any() or (cdf[:, -1] != 1 << precision).any()
  if not 1 <= precision <= _CODER_PRECISION or whole or (frequencies < 1).any():
    raise ValueError(f"tables must rise strictly from 0 to 2^{precision}")
  weights = frequencies * (1 << _CODER_PRECISION - precision) - 1
  return [
    constriction.stream.model.Categorical(row.astype(np.float64), perfect=False) for row in weights
  ]
