"""Adaptive range coding of codes: what the codebooks' uneven use saves over fixed widths.

Shapes: B batch, F frames, Q codebooks, K entries. Each codebook has a table of K integer counts.
A block of frames (all rows of the batch) is coded under the counts so far, codebook by codebook;
then its codes are counted. The decoder counts the same codes, so no table is stored, and a
block and codebook is one call of the coder.

Counts to frequencies: with c the cumulative counts (c[0] = 0, c[K] the total) and P = 24,
  cdf[k] = floor(c[k] * (2^P - K) / c[K]) + k,
in 64-bit integers: strictly increasing from 0 to 2^P, so each entry has a frequency of at least 1.

Why a stream decodes to the same codes everywhere: the range coder itself is integer arithmetic.
Its model takes floats w[k] and makes from them the fixed-point
  cdf[k] = floor(sum(w[:k]) * ((2^P - K) / sum(w))) + k.
We hand over w[k] = frequency[k] - 1. These are integers that sum to 2^P - K < 2^53: every partial
sum is exact in float64 in any order, the quotient is exactly 1, the floor does nothing, and the
result is our integer cdf. No other float takes part.

Source: https://docs.rs/constriction, stream::queue and stream::model (precision 24, 32-bit words).
"""

import math
import zlib
from collections.abc import Iterator, Sequence

import constriction
import numpy as np

from jaxcodec.errors import CodecError

MAX_SIZE = 1 << 16
# All codebooks of a stream together: 8 MiB of counts.
MAX_ENTRIES = 1 << 20
_PRECISION = 24

# These three are part of the file format: another value is another coder. Found by trying on
# codes with Zipf and Dirichlet frequencies; within a factor of two, none matters by 1%.
INCREMENT = 4  # What one occurrence adds to a count; an entry never seen counts 1.
PRIOR_SYMBOLS = 1024  # How many codes seen a prior weighs as much as.
FIRST_BLOCK = 8  # Frames; later blocks are a quarter of what came before, if that is more.

# Bounds the products in `_model` below 2^63: (2^22 symbols + prior) * 4 * 2^24 and 2^31 * 2^12.
MAX_SYMBOLS = 1 << 22
_MAX_PRIOR = 1 << 31


def encode(codes: np.ndarray, sizes: Sequence[int], prior: np.ndarray | None = None) -> bytes:
  """Codes int32 [B, F, Q], each in [0, sizes[q]), as little-endian 32-bit words.

  Args:
    codes: what to code; at most 2^22 codes.
    sizes: entries per codebook, 1 to 65536; a codebook with a single entry costs nothing.
    prior: counts [Q, K] of each entry in training data, below 2^31, with K at least the largest
      size and zeros from `sizes[q]` on; only the ratios in a row matter. None is uniform.
      `decode` needs the same.

  Raises:
    ValueError: if shapes or sizes do not fit each other, or a code or a count is out of range.
  """
  counts = _initial_counts(codes.shape, sizes, prior)
  if not np.issubdtype(codes.dtype, np.integer):
    raise ValueError(f"codes are integers, not {codes.dtype}")
  if codes.size and (codes.min() < 0 or np.any(codes.max(axis=(0, 1)) >= np.asarray(sizes))):
    raise ValueError("a code is outside its codebook")
  # Codebooks first, so that what one call codes lies together.
  planes = np.ascontiguousarray(np.moveaxis(codes, -1, 0), np.int32)
  encoder = constriction.stream.queue.RangeEncoder()
  for start, stop in _blocks(codes.shape[1]):
    for q, table in counts:
      block = planes[q, :, start:stop].ravel()
      encoder.encode(block, _model(table))
      _count(table, block)
  return encoder.get_compressed().astype("<u4").tobytes()


def decode(
  data: bytes, shape: Sequence[int], sizes: Sequence[int], prior: np.ndarray | None = None
) -> np.ndarray:
  """The codes int32 of `shape` [B, F, Q] that `encode` turned into `data`.

  The codes are in range whatever `data` is. Damage that leaves a legal stream goes unseen here:
  a checksum around `data` has to find it.

  Raises:
    ValueError: as `encode`.
    CodecError: if `data` is visibly not a stream of these codes.
  """
  counts = _initial_counts(shape, sizes, prior)
  if len(data) % 4:
    raise CodecError(f"range coded data of {len(data)} bytes is not whole 32-bit words")
  batch, frames, num_codebooks = shape
  planes = np.zeros((num_codebooks, batch, frames), np.int32)
  decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
  for start, stop in _blocks(frames):
    for q, table in counts:
      try:
        block = decoder.decode(_model(table), batch * (stop - start))
      except AssertionError as error:  # What constriction raises for impossible data.
        raise CodecError("range coded data is damaged") from error
      _count(table, block)
      planes[q, :, start:stop] = block.reshape(batch, stop - start)
  if not decoder.maybe_exhausted():
    raise CodecError("range coded data goes on after the last code")
  return np.ascontiguousarray(np.moveaxis(planes, 0, -1))


def _initial_counts(
  shape: Sequence[int], sizes: Sequence[int], prior: np.ndarray | None
) -> list[tuple[int, np.ndarray]]:
  """(q, counts) of the codebooks with more than one entry: 1 + the entry's share of the prior."""
  if len(shape) != 3 or shape[2] != len(sizes) or not shape[0]:
    raise ValueError(f"codes of shape {tuple(shape)} for {len(sizes)} codebooks")
  if math.prod(shape) > MAX_SYMBOLS:
    raise ValueError(f"{math.prod(shape)} codes; at most {MAX_SYMBOLS} go into one stream")
  if any(not 1 <= size <= MAX_SIZE for size in sizes):
    raise ValueError(f"codebook sizes must be 1 to {MAX_SIZE}, not {tuple(sizes)}")
  if sum(sizes) > MAX_ENTRIES:
    raise ValueError(f"codebooks of {sum(sizes)} entries together; at most {MAX_ENTRIES}")
  if prior is not None:
    check_prior(prior, sizes)
  counts = []
  for q, size in enumerate(sizes):
    table = np.ones(size, np.int64)
    if prior is not None:
      row = prior[q, :size].astype(np.int64)
      table += row * (PRIOR_SYMBOLS * INCREMENT) // max(int(row.sum()), 1)
    if size > 1:
      counts.append((q, table))
  return counts


def check_prior(prior: np.ndarray, sizes: Sequence[int]) -> None:
  """Raises ValueError if `prior` is not what `encode` asks for."""
  if prior.ndim != 2 or len(prior) != len(sizes) or prior.shape[1] < max(sizes, default=0):
    raise ValueError(f"a prior of shape {prior.shape} for codebooks of {tuple(sizes)} entries")
  if not np.issubdtype(prior.dtype, np.integer):
    raise ValueError(f"a prior holds integer counts, not {prior.dtype}")
  if prior.size and (prior.min() < 0 or prior.max() >= _MAX_PRIOR):
    raise ValueError(f"a prior's counts must be 0 to {_MAX_PRIOR - 1}")
  if any(row[size:].any() for row, size in zip(prior, sizes, strict=True)):
    raise ValueError("a prior counts entries that its codebook does not have")


def prior_crc(prior: np.ndarray, sizes: Sequence[int]) -> int:
  """What tells a prior that fits codebooks of `sizes`: CRC-32 of its counts as a file has them.

  They are 8-byte little-endian integers in C order of [Q, K], K the largest size.
  """
  return zlib.crc32(np.ascontiguousarray(prior[:, : max(sizes)], "<i8"))


def _blocks(frames: int) -> Iterator[tuple[int, int]]:
  # Short at first, when each code teaches much; then longer, for the cost of a block is fixed.
  start = 0
  while start < frames:
    stop = min(frames, start + max(FIRST_BLOCK, start // 4))
    yield start, stop
    start = stop


def _model(table: np.ndarray):
  """The coder's model whose integer frequencies are those of the module's docstring."""
  cumulative = np.cumsum(table)
  scaled = cumulative * ((1 << _PRECISION) - len(table)) // cumulative[-1]
  # Differences of the scaled sums: frequency - 1, for the coder adds 1 to each.
  weights = scaled.astype(np.float64)
  weights[1:] -= weights[:-1].copy()
  return constriction.stream.model.Categorical(weights, perfect=False)


def _count(table: np.ndarray, block: np.ndarray) -> None:
  if block.size * 8 < table.size:
    np.add.at(table, block, INCREMENT)
  else:
    table += np.bincount(block, minlength=len(table)) * INCREMENT
