"""Tables of whole numbers for Laplace densities, of many scales and of means between integers.

Row 16 s + f + 8 is of the scale e^(6 - 3 s / 32), s of 102, about f / 16, f of -8 to 7; entries as
of `entropy.latents`.
"""

import functools
import zlib

import constriction
import numpy as np

from jaxcodec.entropy.latents import REACH, cdf_of
from jaxcodec.errors import CodecError
from jaxcodec.functional.exact import UNIT

SCALES, FRACTIONS = 102, 16
_LOG_MOST, _LOG_STEP = 6.0, 3 / 32
# In units of 1 / 4096 of twice the logarithm.
_TWICE_MOST, _TWICE_STEP = round(2 * _LOG_MOST * UNIT), round(2 * _LOG_STEP * UNIT)
# CRC-32 of the tables, as 4-byte little-endian integers.
_CRC = 1383030994


def rows_of(loc: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """`(rows, nearest integers)` of densities about `loc`, whole numbers in units of 1 / 4096.

  Args:
    precision: -2 times the logarithms of the scales, in the same unit.
  """
  sixteenths = (loc.astype(np.int64) * FRACTIONS + UNIT // 2) // UNIT
  nearest = (sixteenths + FRACTIONS // 2) // FRACTIONS
  scale = (precision.astype(np.int64) + _TWICE_MOST + _TWICE_STEP // 2) // _TWICE_STEP
  scale = np.clip(scale, 0, SCALES - 1)
  return FRACTIONS * scale + sixteenths - FRACTIONS * nearest + FRACTIONS // 2, nearest


def centred_row(values: np.ndarray) -> int:
  """The row about zero whose scale is that of some integers: their deviation over sqrt 2."""
  log_scale = np.log(max(np.std(values) / np.sqrt(2), 1e-3))
  index = int(np.clip(np.rint((_LOG_MOST - log_scale) / _LOG_STEP), 0, SCALES - 1))
  return FRACTIONS * index + FRACTIONS // 2


@functools.cache
def tables() -> np.ndarray:
  """cdf int64 [1632, 513].

  Raises:
    CodecError: if this machine's arithmetic does not give the integers that it should.
  """
  scales = np.exp(_LOG_MOST - _LOG_STEP * np.arange(SCALES))[:, None, None]
  means = (np.arange(FRACTIONS) - FRACTIONS // 2)[:, None] / FRACTIONS
  d = np.abs(np.arange(-REACH, REACH + 1) - means)[None]
  inside = 1 - np.exp(-0.5 / scales) * np.cosh(np.minimum(d, 0.5) / scales)
  outside = -0.5 * np.exp((0.5 - np.maximum(d, 0.5)) / scales) * np.expm1(-1 / scales)
  cdf = cdf_of(np.where(d < 0.5, inside, outside).reshape(SCALES * FRACTIONS, -1))
  if zlib.crc32(cdf.astype("<i4").tobytes()) != _CRC:
    raise CodecError("this machine's exponential is not precise enough to read latents")
  cdf.setflags(write=False)
  return cdf


@functools.cache
def model(row: int):
  """What `constriction` codes under one of the rows."""
  frequencies = np.diff(tables()[row])
  return constriction.stream.model.Categorical((frequencies - 1.0), perfect=False)
