"""Curves of whole numbers in units of 1 / 4096, read from tables that are the same everywhere.

Beside `functional.exact`, whose layers they stand between. A table's integers are rounded from
float64 and checked before they are used. x is float64 that holds whole numbers, of any shape.
"""

import functools
import zlib

import numpy as np
from scipy import special

from jaxcodec.errors import CodecError
from jaxcodec.functional.exact import UNIT

_SIZE = 1 << 16  # Beyond 16 in real terms no curve here moves by half a unit.
# CRC-32 of the tables below, one after the other, as 4-byte little-endian integers.
_CRC = 0x698ED6E8


def half_tanh(x: np.ndarray) -> np.ndarray:
  """tanh(x) / 2."""
  return np.sign(x) * _read("half_tanh", x)


def gelu(x: np.ndarray) -> np.ndarray:
  """x times the normal probability of what lies below x."""
  return np.maximum(x, 0) - _read("below", x)


def sigmoid(x: np.ndarray) -> np.ndarray:
  """1 / (1 + exp(-x))."""
  half = _read("half_sigmoid", x)
  return UNIT / 2 + np.sign(x) * half


def decay(x: np.ndarray) -> np.ndarray:
  """exp(-x) in units of 1 / 2^14, for x >= 0."""
  return _read("decay", x)


def _read(name: str, x: np.ndarray) -> np.ndarray:
  return _tables()[name][np.minimum(np.abs(x), _SIZE - 1).astype(np.int64)]


@functools.cache
def _tables() -> dict[str, np.ndarray]:
  """Tables of |x| by their names.

  Raises:
    CodecError: if this machine's arithmetic does not give the integers that it should.
  """
  x = np.arange(_SIZE) / UNIT
  curves = {
    "half_tanh": UNIT / 2 * np.tanh(x),
    "below": UNIT * x * special.ndtr(-x),
    "half_sigmoid": UNIT * (special.expit(x) - 0.5),
    "decay": (1 << 14) * np.exp(-x),
  }
  found = {name: np.rint(values) for name, values in curves.items()}
  if zlib.crc32(b"".join(table.astype("<i4").tobytes() for table in found.values())) != _CRC:
    raise CodecError("this machine's functions are not precise enough to read latents")
  return found
