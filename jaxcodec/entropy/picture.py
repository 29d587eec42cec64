"""What a .jxc file says about a picture among its streams.

The bytes are laid out in docs/bitstream.md. Each number is checked before memory is taken for it.
"""

import dataclasses
from collections.abc import Mapping

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
from jaxcodec.entropy.latents import MOST_BYTES
from jaxcodec.errors import CodecError

KIND = 2  # The kind of signal.
_ICC = 4  # The tag of a colour profile; a reader may leave it out.
_QUALITY = 5  # That of a quality; who does not know it cannot decode.
MOST_QUALITY = 1000
_LIMITS = {
  "height": (1, 1 << 24),
  "width": (1, 1 << 24),
  "channels": (1, 3),
  "bit_depth": (8, 8),
  "num_symbols": (1, 1 << 32),
}
MOST_PIXELS = 1 << 28
MOST_PROFILE = 1 << 15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
  """What a file says about a picture; ValueError where a value is out of range.

  Attributes:
    codec, weights_hash, metadata: as of `stream.Stream`.
    height, width: pixels, exactly; at most 2^28 together.
    channels: 3 for RGB, 1 for grey.
    bit_depth: of the samples that came in; 8 is the only one.
    num_symbols: numbers that the payload codes.
    profile: the ICC profile that says what its colours mean, at most 32768 bytes; may be empty.
    quality: 0 to 1000, of a codec that has many; else None.
  """

  codec: str
  weights_hash: bytes
  height: int
  width: int
  channels: int = 3
  bit_depth: int = 8
  num_symbols: int
  profile: bytes = b""
  quality: int | None = None
  metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if not is_printable(self.codec) or not 1 <= len(self.codec.encode()) <= 255:
      raise ValueError("codec must be a printable name of 1 to 255 bytes")
    if len(self.weights_hash) != 16:
      raise ValueError(f"weights_hash must have 16 bytes, not {len(self.weights_hash)}")
    for name, (low, high) in _LIMITS.items():
      if not low <= getattr(self, name) <= high:
        raise ValueError(f"{name} must be {low} to {high}, not {getattr(self, name)}")
    if self.channels == 2:
      raise ValueError("channels must be 1 or 3, not 2")
    if self.height * self.width > MOST_PIXELS:
      raise ValueError(f"{self.height} x {self.width} pixels are more than {MOST_PIXELS}")
    if len(self.profile) > MOST_PROFILE:
      raise ValueError(f"a profile of {len(self.profile)} bytes is more than {MOST_PROFILE}")
    if self.quality is not None and not 0 <= self.quality <= MOST_QUALITY:
      raise ValueError(f"quality must be 0 to {MOST_QUALITY}, not {self.quality}")
    check_metadata(self.metadata)

  @property
  def num_chunks(self) -> int:
    return 1


def payload_limits(picture: Picture) -> tuple[int, int]:
  """Fewest and most bytes of the payload."""
  return 1, 64 + MOST_BYTES * picture.num_symbols


def picture_bytes(picture: Picture) -> bytes:
  """The description of a picture as it stands in a header, without its length."""
  name = picture.codec.encode()
  body = varint(KIND) + varint(len(name)) + name + picture.weights_hash
  body += b"".join(varint(getattr(picture, field)) for field in _LIMITS)
  if picture.profile:
    body += field_bytes(_ICC, picture.profile)
  if picture.quality is not None:
    body += field_bytes(_QUALITY, varint(picture.quality))
  return body + metadata_bytes(picture.metadata)


def parse_picture(body: memoryview) -> Picture:
  """The picture of a description; raises CodecError or ValueError."""
  _, at = read_varint(body, 0, "header")
  length, at = read_varint(body, at, "header")
  if length > 255:
    raise CodecError(f"header is not valid: a codec name of {length} bytes")
  name, at = read_bytes(body, at, length)
  weights_hash, at = read_bytes(body, at, 16)
  numbers = {}
  for field in _LIMITS:
    numbers[field], at = read_varint(body, at, "header")
  profile, quality, metadata = b"", None, dict[str, str]()
  for tag, content in read_fields(body, at, (_ICC, _QUALITY, PAIR)):
    if tag == PAIR:
      read_pair(content, metadata)
    elif tag == _QUALITY:
      if quality is not None:
        raise CodecError("header is not valid: a picture has one quality")
      quality, end = read_varint(memoryview(content), 0, "header")
      if end != len(content):
        raise CodecError("header is not valid: a quality is one number")
    elif profile or not content:
      raise CodecError("header is not valid: a picture has one profile, not empty")
    else:
      profile = content
  return Picture(
    codec=bytes(name).decode(),
    weights_hash=bytes(weights_hash),
    profile=profile,
    quality=quality,
    metadata=metadata,
    **numbers,
  )
