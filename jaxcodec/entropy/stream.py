"""What a .jxc file says about each of its streams.

The bytes are laid out in docs/bitstream.md. Each number is checked before memory is taken for it.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import numpy as np

from jaxcodec.entropy import adaptive, bits
from jaxcodec.entropy.fields import (
  PAIR,
  check_metadata,
  field_bytes,
  is_printable,
  metadata_bytes,
  read_bytes,
  read_fields,
  read_pair,
  read_varint,
  varint,
)
from jaxcodec.errors import CodecError

_SOUND = 1  # The kind of signal; other kinds have other numbers after their hash.
_DTYPES = {"float32": 1}
_PRIOR = 1  # The tag of a prior's checksum.
_LEARNED = 3  # The tag of a learned prior's digest.
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
class Stream:
  """What a file says about one of its streams: a signal, or a batch of signals of one length.

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
    prior_crc: `adaptive.prior_crc` of the prior that chunks may be coded with; None for no prior.
    learned_digest: `learned.digest` of the learned prior that chunks may be coded under; None for
      none.
    metadata: up to 64 texts, such as "title"; see `fields.check_metadata`.
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
  prior_crc: int | None = None
  learned_digest: bytes | None = None
  metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if not is_printable(self.codec) or not 1 <= len(self.codec.encode()) <= 255:
      raise ValueError("codec must be a printable name of 1 to 255 bytes")
    if len(self.weights_hash) != 16:
      raise ValueError(f"weights_hash must have 16 bytes, not {len(self.weights_hash)}")
    if self.learned_digest is not None and len(self.learned_digest) != 16:
      raise ValueError(f"learned_digest must have 16 bytes, not {len(self.learned_digest)}")
    if self.dtype not in _DTYPES:
      raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, not {self.dtype}")
    for name, (low, high) in _LIMITS.items():
      if not low <= getattr(self, name) <= high:
        raise ValueError(f"{name} must be {low} to {high}, not {getattr(self, name)}")
    if not 1 <= len(self.codebook_sizes) <= _MAX_CODEBOOKS:
      raise ValueError(f"a stream has 1 to {_MAX_CODEBOOKS} codebooks")
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
    check_metadata(self.metadata)

  @property
  def bitrate(self) -> float:
    """Nominal bit/s of one row: its codes at log2(size) bits, without scales and framing."""
    bits_per_frame = sum(math.log2(size) for size in self.codebook_sizes)
    return self.sample_rate / self.hop_length * bits_per_frame

  @property
  def num_chunks(self) -> int:
    return -(-self.num_frames // self.frames_per_chunk)


def chunk_shape(stream: Stream, index: int) -> tuple[int, int, int]:
  """[B, F, Q] of the codes of chunk `index`; ValueError if there is no such chunk."""
  if not 0 <= index < stream.num_chunks:
    raise ValueError(f"no chunk {index} in a stream of {stream.num_chunks}")
  frames = min(stream.frames_per_chunk, stream.num_frames - index * stream.frames_per_chunk)
  return stream.batch, frames, len(stream.codebook_sizes)


def chunk_shapes(stream: Stream) -> Iterator[tuple[int, int, int]]:
  """[B, F, Q] of the codes of each chunk in turn."""
  return (chunk_shape(stream, index) for index in range(stream.num_chunks))


def num_segments(stream: Stream, shape: tuple[int, int, int]) -> int:
  """Scales of a row in a chunk whose codes have `shape`."""
  return -(-shape[1] // stream.segment_frames) if stream.segment_frames else 0


def payload_limits(stream: Stream, index: int) -> tuple[int, int]:
  """Fewest and most bytes of the payload of chunk `index`: its scales; they and packed codes."""
  shape = chunk_shape(stream, index)
  scales = 4 * shape[0] * num_segments(stream, shape)
  return scales, scales + bits.packed_bytes(shape, bits.widths(stream.codebook_sizes))


def check_prior(stream: Stream, prior: np.ndarray | None) -> bool:
  """Whether `prior` is the stream's; ValueError if it does not fit the codebooks."""
  if prior is None:
    return False
  adaptive.check_prior(prior, stream.codebook_sizes)
  return adaptive.prior_crc(prior, stream.codebook_sizes) == stream.prior_crc


def stream_bytes(stream: Stream) -> bytes:
  """The description of a stream as it stands in a header, without its length."""
  name = stream.codec.encode()
  body = bytes([_SOUND]) + varint(len(name)) + name + stream.weights_hash
  body += bytes([_DTYPES[stream.dtype]])
  body += b"".join(varint(getattr(stream, field)) for field in _LIMITS)
  runs: list[list[int]] = []
  for size in stream.codebook_sizes:
    if runs and runs[-1][0] == size:
      runs[-1][1] += 1
    else:
      runs.append([size, 1])
  body += varint(len(runs)) + b"".join(varint(size) + varint(count) for size, count in runs)
  if stream.prior_crc is not None:
    body += field_bytes(_PRIOR, stream.prior_crc.to_bytes(4, "little"))
  if stream.learned_digest is not None:
    body += field_bytes(_LEARNED, stream.learned_digest)
  return body + metadata_bytes(stream.metadata)


def parse_stream(body: memoryview) -> Stream:
  """The stream of a description; raises CodecError or ValueError."""
  kind, at = read_varint(body, 0, "header")
  if kind != _SOUND:
    raise CodecError(f"the file needs a newer reader: kind of signal {kind} is unknown to this one")
  length, at = read_varint(body, at, "header")
  if length > 255:
    raise CodecError(f"header is not valid: a codec name of {length} bytes")
  name, at = read_bytes(body, at, length)
  weights_hash, at = read_bytes(body, at, 16)
  code, at = read_bytes(body, at, 1)
  dtype = next((name for name, value in _DTYPES.items() if value == code[0]), None)
  if dtype is None:
    raise CodecError(f"dtype {code[0]} is unknown to this reader")
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
  priors, metadata = dict[int, bytes](), dict[str, str]()
  for tag, content in read_fields(body, at, (_PRIOR, _LEARNED, PAIR)):
    if tag == PAIR:
      read_pair(content, metadata)
      continue
    size = 4 if tag == _PRIOR else 16
    if len(content) != size or tag in priors:
      raise CodecError(f"header is not valid: a stream has one field {tag}, of {size} bytes")
    priors[tag] = bytes(content)
  return Stream(
    codec=bytes(name).decode(),
    weights_hash=bytes(weights_hash),
    dtype=dtype,
    codebook_sizes=tuple(sizes),
    prior_crc=int.from_bytes(priors[_PRIOR], "little") if _PRIOR in priors else None,
    learned_digest=priors.get(_LEARNED),
    metadata=metadata,
    **numbers,
  )
