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
_TILES = 7
_NETWORKS = 9
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
TILE_UNIT = 64  # Pixels; the sides of tiles are multiples of it.
MOST_TILE = 64 * TILE_UNIT
_MOST_NETWORKS = 32  # Numbers that describe them.
_MOST_PARTS, _MOST_LAYERS, _MOST_CHANNELS = 64, 16, 1024


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
    tile: pixels a side of the tiles that are coded apart, a multiple of 64 up to 4096; 0 if the
      picture is one payload.
    parts: payloads of each tile.
    networks: numbers that say what the networks in the payload look like, of a picture that brings
      its own; else empty.
    layers: channels of the latents that come before the others, in turn; empty if all come at once.
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
  tile: int = 0
  parts: int = 1
  layers: tuple[tuple[int, ...], ...] = ()
  networks: tuple[int, ...] = ()
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
    if self.tile % TILE_UNIT or not 0 <= self.tile <= MOST_TILE:
      raise ValueError(f"a tile has a multiple of 64 pixels up to {MOST_TILE}, not {self.tile}")
    if not 1 <= self.parts <= (_MOST_PARTS if self.tile else 1):
      raise ValueError(f"a tile of {self.tile} pixels has no {self.parts} parts")
    channels = [channel for layer in self.layers for channel in layer]
    if (self.layers and not self.tile) or not all(self.layers):
      raise ValueError("layers have channels, and are of tiles")
    if len(self.layers) > _MOST_LAYERS or len(channels) > _MOST_CHANNELS:
      raise ValueError(f"{len(self.layers)} layers of {len(channels)} channels are too many")
    if len(set(channels)) < len(channels) or not all(0 <= c < 1 << 16 for c in channels):
      raise ValueError("a channel is in two layers, or is none")
    if len(self.networks) > _MOST_NETWORKS or not all(0 <= n < 1 << 16 for n in self.networks):
      raise ValueError(f"at most {_MOST_NETWORKS} numbers below 65536 describe networks")
    if self.networks and (self.tile or self.quality is not None):
      raise ValueError("a picture with networks of its own has no tiles and no quality")
    check_metadata(self.metadata)

  @property
  def num_tiles(self) -> tuple[int, int]:
    """Rows and columns of tiles."""
    side = self.tile or max(self.height, self.width)
    return -(-self.height // side), -(-self.width // side)

  @property
  def num_chunks(self) -> int:
    rows, columns = self.num_tiles
    return rows * columns * self.parts


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
  if picture.tile:
    numbers = [picture.tile // TILE_UNIT, picture.parts, len(picture.layers)]
    for layer in picture.layers:
      numbers += [len(layer), *layer]
    body += field_bytes(_TILES, b"".join(map(varint, numbers)))
  if picture.networks:
    body += field_bytes(_NETWORKS, b"".join(map(varint, picture.networks)))
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
  networks: tuple[int, ...] = ()
  tile, parts = 0, 1
  layers: tuple[tuple[int, ...], ...] = ()
  for tag, content in read_fields(body, at, (_ICC, _QUALITY, _TILES, _NETWORKS, PAIR)):
    if tag == PAIR:
      read_pair(content, metadata)
    elif tag == _QUALITY:
      if quality is not None:
        raise CodecError("header is not valid: a picture has one quality")
      quality, *more = _numbers(content)
      if more:
        raise CodecError("header is not valid: a quality is one number")
    elif tag == _TILES:
      if tile:
        raise CodecError("header is not valid: a picture has tiles of one size")
      tile, parts, layers = _tiles(_numbers(content))
    elif tag == _NETWORKS:
      if networks:
        raise CodecError("header is not valid: networks are described once")
      networks = tuple(_numbers(content))
    elif profile or not content:
      raise CodecError("header is not valid: a picture has one profile, not empty")
    else:
      profile = content
  return Picture(
    codec=bytes(name).decode(),
    weights_hash=bytes(weights_hash),
    profile=profile,
    quality=quality,
    tile=tile,
    parts=parts,
    layers=layers,
    networks=networks,
    metadata=metadata,
    **numbers,
  )


def _numbers(content: bytes) -> list[int]:
  """The numbers that a field consists of, at least one."""
  found: list[int] = []
  at = 0
  while at < len(content) or not found:
    number, at = read_varint(memoryview(content), at, "header")
    found.append(number)
  return found


def _tiles(numbers: list[int]) -> tuple[int, int, tuple[tuple[int, ...], ...]]:
  """Pixels a side, parts and layers of a field's numbers."""
  side, parts, count, *rest = *numbers[:3], *[-1] * (3 - len(numbers)), *numbers[3:]
  layers = []
  for _ in range(min(max(count, 0), _MOST_LAYERS + 1)):
    size = rest[0] if rest else 0
    layers.append(tuple(rest[1 : 1 + size]))
    if len(layers[-1]) != size:
      break
    rest = rest[1 + size :]
  whole = len(layers) == count and not rest
  if not whole or not 1 <= side <= MOST_TILE // TILE_UNIT or not all(layers):
    raise CodecError("header is not valid: what it says of tiles")
  return TILE_UNIT * side, parts, tuple(layers)
