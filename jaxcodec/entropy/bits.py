"""Codes packed at a fixed width per codebook: the rate that a codec's data sheet promises.

Shapes: B batch, F frames, Q codebooks. A codebook of K entries takes ceil(log2(K)) bits a code.
Bit order: codes in C order of [B, F, Q], each with its highest bit first, into bytes from their
highest bit down, without padding between codes; the last byte is filled up with zeros.
"""

import math
from collections.abc import Sequence

import numpy as np

from jaxcodec.errors import CodecError

# Bits that are spread out to a byte each at a time: bounds the memory, keeps NumPy's loops long.
_BITS_PER_STEP = 1 << 22


def widths(sizes: Sequence[int]) -> tuple[int, ...]:
  """Bits per code of codebooks with `sizes` entries: ceil(log2(size)), 0 for a single entry."""
  return tuple((int(size) - 1).bit_length() for size in sizes)


def packed_bytes(shape: Sequence[int], widths: Sequence[int]) -> int:
  """Bytes of packed codes of `shape` [B, F, Q]."""
  return (math.prod(shape[:-1]) * sum(widths) + 7) // 8


def pack(values: np.ndarray, widths: Sequence[int]) -> bytes:
  """Packs int32 codes [B, F, Q] of `widths[q]` bits (0 to 31) each.

  Raises:
    ValueError: if the last axis is not one per width, or a code does not fit its width.
  """
  rows, columns = _rows(values, widths), np.asarray(widths, np.int64)
  if not np.issubdtype(rows.dtype, np.integer):
    raise ValueError(f"codes are integers, not {rows.dtype}")
  if rows.size and (rows.min() < 0 or np.any(rows >> columns)):
    raise ValueError("a code does not fit the width of its codebook")
  column, shift = _bit_columns(columns)
  out, step = [], _rows_per_step(columns)
  for start in range(0, len(rows), step):
    bits = (rows[start : start + step, column] >> shift) & 1
    out.append(np.packbits(bits.astype(np.uint8)).tobytes())
  return b"".join(out)


def unpack(data: bytes, shape: Sequence[int], widths: Sequence[int]) -> np.ndarray:
  """The int32 codes `shape` [B, F, Q] that `pack` turned into `data`.

  A code may exceed the size of a codebook that is not a power of two: the caller checks.

  Raises:
    ValueError: if the last axis of `shape` is not one per width.
    CodecError: if `data` has another length, or bits set in the padding.
  """
  codes = np.zeros(shape, np.int32)
  rows, columns = _rows(codes, widths), np.asarray(widths, np.int64)
  if len(data) != packed_bytes(shape, widths):
    raise CodecError(f"packed codes have {len(data)} bytes, not {packed_bytes(shape, widths)}")
  padding = -len(rows) * int(columns.sum()) % 8
  if padding and data[-1] & ((1 << padding) - 1):
    raise CodecError("packed codes have bits set in the padding")
  used = np.flatnonzero(columns)
  if not used.size:
    return codes
  packed = np.frombuffer(data, np.uint8)
  _, shift = _bit_columns(columns)
  first = (np.cumsum(columns) - columns)[used]
  per_row, step = int(columns.sum()), _rows_per_step(columns)
  for start in range(0, len(rows), step):
    count = min(step, len(rows) - start)
    # A step is a multiple of 8 rows, so it starts on a whole byte.
    here = packed[start * per_row // 8 :]
    bits = np.unpackbits(here[: (count * per_row + 7) // 8], count=count * per_row)
    places = bits.reshape(count, per_row).astype(np.int32) << shift
    rows[start : start + count, used] = np.add.reduceat(places, first, axis=1)
  return codes


def _rows(values: np.ndarray, widths: Sequence[int]) -> np.ndarray:
  if values.ndim < 1 or values.shape[-1] != len(widths):
    raise ValueError(f"codes of shape {values.shape} for {len(widths)} codebooks")
  if any(not 0 <= width <= 31 for width in widths):
    raise ValueError(f"widths must be 0 to 31 bits, not {tuple(widths)}")
  return values.reshape(math.prod(values.shape[:-1]), len(widths))


def _bit_columns(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """For each bit of a frame: the codebook it belongs to, and its place value's exponent."""
  column = np.repeat(np.arange(len(columns)), columns)
  first = np.repeat(np.cumsum(columns) - columns, columns)
  return column, (columns[column] - 1 - (np.arange(len(column)) - first)).astype(np.int32)


def _rows_per_step(columns: np.ndarray) -> int:
  return 8 * max(1, _BITS_PER_STEP // 8 // max(1, int(columns.sum())))
