"""The header of a .jxc file, version 1: what a file says about itself.

The bytes are laid out in docs/bitstream.md. Each number is checked before memory is taken for it.
"""

import dataclasses
import math
import zlib
from collections.abc import Iterator

from jaxcodec.entropy import adaptive
from jaxcodec.errors import CodecError

MAGIC = b"\x8aJXC"
VERSION = 1

_MAX_HEADER = 1 << 16
_DTYPES = {"float32": 1}

_LIMITS = {
  "sample_rate": (1, 1 << 24),
  "channels": (1, 64),
  "batch": (1, 1 << 16),
  "num_samples": (0, 1 << 48),
  "hop_length": (1, 1 << 24),
  "num_frames": (0, 1 << 40),
  "frames_per_chunk": (1, adaptive.MAX_SYMBOLS),
  "segment_frames": (0, adaptive.MAX_SYMBOLS),
}
_MAX_CODEBOOKS = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
  """What a file says about itself.

  Raises ValueError where a value is out of range or two do not fit each other.

  Attributes:
    codec: name of the codec, printable, 1 to 255 bytes of UTF-8.
    weights_hash: 16 bytes that tell the weights.
    dtype: type of the decoded signal; "float32" is the only one.
    sample_rate: samples a second and channel, 1 to 2^24.
    channels: 1 to 64.
    batch: rows B, 1 to 65536, all of one length.
    num_samples: exact samples a row and channel, at most num_frames * hop_length.
    hop_length: samples a frame, 1 to 2^24.
    num_frames: frames a row, up to 2^40.
    frames_per_chunk: frames a row of each chunk but the last; a chunk is at most 2^22 codes.
    segment_frames: frames a scale, a divisor of frames_per_chunk; 0 is no scales.
    codebook_sizes: entries of each of 1 to 1024 codebooks, 1 to 65536, together at most 2^20.
  """

  codec: str
  weights_hash: bytes
  dtype: str = "float32"
  sample_rate: int
  channels: int
  batch: int
  num_samples: int
  hop_length: int
  num_frames: int
  frames_per_chunk: int
  segment_frames: int = 0
  codebook_sizes: tuple[int, ...]

  def __post_init__(self):
    if not 1 <= len(self.codec.encode()) <= 255 or not self.codec.isprintable():
      raise ValueError("codec must be a printable name of 1 to 255 bytes")
    if len(self.weights_hash) != 16:
      raise ValueError(f"weights_hash must have 16 bytes, not {len(self.weights_hash)}")
    if self.dtype not in _DTYPES:
      raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, not {self.dtype}")
    for name, (low, high) in _LIMITS.items():
      if not low <= getattr(self, name) <= high:
        raise ValueError(f"{name} must be {low} to {high}, not {getattr(self, name)}")
    if not 1 <= len(self.codebook_sizes) <= _MAX_CODEBOOKS:
      raise ValueError(f"a file has 1 to {_MAX_CODEBOOKS} codebooks")
    if any(not 1 <= size <= adaptive.MAX_SIZE for size in self.codebook_sizes):
      raise ValueError(f"codebook sizes must be 1 to {adaptive.MAX_SIZE}")
    if sum(self.codebook_sizes) > adaptive.MAX_ENTRIES:
      raise ValueError(f"codebooks may have {adaptive.MAX_ENTRIES} entries together")
    if self.num_samples > self.num_frames * self.hop_length:
      raise ValueError(
        f"{self.num_samples} samples do not fit {self.num_frames} frames of {self.hop_length}"
      )
    frames = min(self.frames_per_chunk, self.num_frames)
    if self.batch * frames * len(self.codebook_sizes) > adaptive.MAX_SYMBOLS:
      raise ValueError(f"a chunk has more than {adaptive.MAX_SYMBOLS} codes")
    if self.segment_frames and self.frames_per_chunk % self.segment_frames:
      raise ValueError("frames_per_chunk must be a multiple of segment_frames")

  @property
  def bitrate(self) -> float:
    """Nominal bit/s of one row: its codes at log2(size) bits, without scales and framing."""
    bits_per_frame = sum(math.log2(size) for size in self.codebook_sizes)
    return self.sample_rate / self.hop_length * bits_per_frame

  @property
  def num_chunks(self) -> int:
    return -(-self.num_frames // self.frames_per_chunk)


def chunk_shape(header: Header, index: int) -> tuple[int, int, int]:
  """[B, F, Q] of the codes of chunk `index`; ValueError if there is no such chunk."""
  if not 0 <= index < header.num_chunks:
    raise ValueError(f"no chunk {index} in a file of {header.num_chunks}")
  frames = min(header.frames_per_chunk, header.num_frames - index * header.frames_per_chunk)
  return header.batch, frames, len(header.codebook_sizes)


def chunk_shapes(header: Header) -> Iterator[tuple[int, int, int]]:
  """[B, F, Q] of the codes of each chunk in turn."""
  return (chunk_shape(header, index) for index in range(header.num_chunks))


def header_bytes(header: Header) -> bytes:
  """The header as it stands in a file, from the magic to its checksum."""
  name = header.codec.encode()
  body = varint(len(name)) + name + header.weights_hash + bytes([_DTYPES[header.dtype]])
  body += b"".join(varint(getattr(header, field)) for field in _LIMITS)
  runs: list[list[int]] = []
  for size in header.codebook_sizes:
    if runs and runs[-1][0] == size:
      runs[-1][1] += 1
    else:
      runs.append([size, 1])
  body += varint(len(runs)) + b"".join(varint(size) + varint(count) for size, count in runs)
  data = MAGIC + bytes([VERSION]) + varint(len(body)) + body
  return data + crc_bytes(data)


def read_header(data: bytes) -> Header:
  """The header at the start of `data`; what comes after it is not looked at.

  Raises:
    CodecError: if this is no .jxc file, too new, truncated, damaged, or says what cannot be.
  """
  return parse_header(memoryview(data))[0]


def parse_header(view: memoryview) -> tuple[Header, int]:
  """The header and the offset of the first chunk; raises as `read_header`."""
  if bytes(view[:4]) != MAGIC:
    if len(view) and MAGIC.startswith(bytes(view[:4])):
      raise CodecError("truncated: no whole header")
    raise CodecError("not a .jxc file")
  if len(view) < 5:
    raise CodecError("truncated: no whole header")
  if view[4] > VERSION:
    raise CodecError(f"version {view[4]} is newer than this reader ({VERSION})")
  if view[4] < VERSION:
    raise CodecError(f"version {view[4]} does not exist")
  length, start = read_varint(view, 5, "header")
  end = start + length
  if length > _MAX_HEADER:
    raise CodecError(f"header is damaged (a length of {length} bytes)")
  if end + 4 > len(view):
    raise CodecError("truncated: no whole header")
  if view[end : end + 4] != crc_bytes(view[:end]):
    raise CodecError("header is damaged (checksum)")
  try:
    # What follows the known fields is from a later writer, and skipped.
    return _parse_fields(view[start:end]), end + 4
  except ValueError as error:
    raise CodecError(f"header is not valid: {error}") from error


def _parse_fields(body: memoryview) -> Header:
  length, at = read_varint(body, 0, "header")
  if length > 255:
    raise CodecError(f"header is not valid: a codec name of {length} bytes")
  fixed = bytes(body[at : at + length + 17])
  if len(fixed) < length + 17:
    raise CodecError("header is not valid: it ends within a field")
  at += length + 17
  dtype = next((name for name, code in _DTYPES.items() if code == fixed[-1]), None)
  if dtype is None:
    raise CodecError(f"dtype {fixed[-1]} is unknown to this reader")
  numbers = {}
  for field in _LIMITS:
    numbers[field], at = read_varint(body, at, "header")
  num_runs, at = read_varint(body, at, "header")
  sizes: list[int] = []
  for _ in range(num_runs):  # Ends with the bytes there are, at the latest.
    size, at = read_varint(body, at, "header")
    count, at = read_varint(body, at, "header")
    if not 1 <= count <= _MAX_CODEBOOKS - len(sizes):
      raise CodecError(f"header is not valid: a run of {count} codebooks")
    sizes += [size] * count
  return Header(
    codec=fixed[:length].decode(),
    weights_hash=fixed[length : length + 16],
    dtype=dtype,
    codebook_sizes=tuple(sizes),
    **numbers,
  )


def varint(value: int) -> bytes:
  """LEB128: seven bits a byte, lowest first, the high bit set on all bytes but the last."""
  out = bytearray()
  while value > 0x7F:
    out.append(value & 0x7F | 0x80)
    value >>= 7
  return bytes(out) + bytes([value])


def read_varint(view: memoryview, start: int, what: str) -> tuple[int, int]:
  """The number at `start`, below 2^64 and in its shortest form, and the offset after it."""
  value = 0
  for at in range(start, min(start + 10, len(view))):
    value |= (view[at] & 0x7F) << 7 * (at - start)
    if view[at] < 0x80:
      if value >> 64 or (at > start and not view[at]):
        raise CodecError(f"{what} is damaged (a number is not in its shortest form)")
      return value, at + 1
  if len(view) < start + 10:
    raise CodecError(f"truncated: {what} ends within a number")
  raise CodecError(f"{what} is damaged (a number of more than 64 bits)")


def crc_bytes(data: bytes | memoryview, seed: int = 0) -> bytes:
  """CRC-32 of `data` as zlib has it, little-endian, going on from the checksum `seed`."""
  return zlib.crc32(data, seed).to_bytes(4, "little")
