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
  models = _models(cdf, precision)
  if symbols.shape != rows.shape or symbols.ndim != 1:
    raise ValueError(f"symbols {symbols.shape} and rows {rows.shape} must be [N] both")
  if symbols.size and not 0 <= symbols.min() <= symbols.max() < cdf.shape[1] - 1:
    raise ValueError("a symbol is outside its table")
  order, bounds = _grouped(rows, len(models))
  by_row = symbols.astype(np.int32)[order]
  encoder = constriction.stream.queue.RangeEncoder()
  for model, start, stop in zip(models, bounds, bounds[1:], strict=False):
    if start < stop:
      encoder.encode(by_row[start:stop], model)
  return encoder.get_compressed().astype("<u4").tobytes()


def decode(data: bytes, rows: np.ndarray, cdf: np.ndarray, precision: int = 16) -> np.ndarray:
  """The symbols int32 [N] that `encode` turned into `data`; in range whatever `data` is.

  Raises:
    ValueError: as `encode`.
    CodecError: if `data` is visibly not a stream of these symbols.
  """
  models = _models(cdf, precision)
  order, bounds = _grouped(rows, len(models))
  if len(data) % 4:
    raise CodecError(f"range coded data of {len(data)} bytes is not whole 32-bit words")
  decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
  by_row = np.zeros(len(rows), np.int32)
  for model, start, stop in zip(models, bounds, bounds[1:], strict=False):
    if start < stop:
      try:
        by_row[start:stop] = decoder.decode(model, int(stop - start))
      except AssertionError as error:  # What constriction raises for impossible data.
        raise CodecError("range coded data is damaged") from error
  if not decoder.maybe_exhausted():
    raise CodecError("range coded data goes on after the last symbol")
  symbols = np.zeros_like(by_row)
  symbols[order] = by_row
  return symbols


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
