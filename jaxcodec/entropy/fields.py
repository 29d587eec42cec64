"""What .jxc headers are made of: numbers, checksums, texts, and fields that later writers may add.

A field is a tag, a length and that many bytes. An odd tag is critical: a reader that does not know
it must not go on. An even one may be skipped. The bytes are laid out in docs/bitstream.md.
"""

import re
import zlib
from collections.abc import Collection, Mapping

from jaxcodec.errors import CodecError

PAIR = 2  # The tag of a key and a value, in a file's fields and in a stream's.

_MAX_PAIRS = 64
_MAX_VALUE = 4096
_KEY = re.compile(r"[a-z0-9._-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Listed, not asked of Unicode's tables: those grow, and a file must not become illegal by it.
_UNPRINTABLE = re.compile(
  r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
  r"\ufeff\ufff9-\ufffb\ufffe\uffff]"
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


def read_bytes(view: memoryview, start: int, count: int) -> tuple[memoryview, int]:
  """`count` bytes of the header at `start`, and the offset after them."""
  if start + count > len(view):
    raise CodecError("header is not valid: it ends within a field")
  return view[start : start + count], start + count


def crc_bytes(data: bytes | memoryview, seed: int = 0) -> bytes:
  """CRC-32 of `data` as zlib has it, little-endian, going on from the checksum `seed`."""
  return zlib.crc32(data, seed).to_bytes(4, "little")


def is_printable(text: str) -> bool:
  """Whether a text is one line that leaves a terminal as it is: no controls, no invisible marks."""
  return not _UNPRINTABLE.search(text)


def field_bytes(tag: int, content: bytes) -> bytes:
  """One field."""
  return varint(tag) + varint(len(content)) + content


def read_fields(view: memoryview, start: int, known: Collection[int]) -> list[tuple[int, bytes]]:
  """The fields from `start` to the end whose tags are `known`; others are skipped if even.

  Raises:
    CodecError: if a critical one is unknown, or they are not whole.
  """
  fields = []
  while start < len(view):
    tag, start = read_varint(view, start, "header")
    length, start = read_varint(view, start, "header")
    content, start = read_bytes(view, start, length)
    if tag in known:
      fields.append((tag, bytes(content)))
    elif tag % 2:
      raise CodecError(f"the file needs a newer reader: field {tag} is unknown to this one")
  return fields


def check_metadata(metadata: Mapping[str, str]) -> None:
  """Raises ValueError unless the pairs are few, short and printable."""
  if len(metadata) > _MAX_PAIRS:
    raise ValueError(f"{len(metadata)} pairs of metadata; at most {_MAX_PAIRS} go into one place")
  for key, value in metadata.items():
    if not _KEY.fullmatch(key):
      raise ValueError(f"a key of metadata has 1 to 64 of a-z, 0-9, '.', '_' and '-', not {key!r}")
    if not is_printable(value):
      raise ValueError(f"the metadata {key!r} has characters that cannot be printed on one line")
    if len(value.encode()) > _MAX_VALUE:
      raise ValueError(f"the metadata {key!r} is longer than {_MAX_VALUE} bytes")
    if key == "source-sha256" and not _SHA256.fullmatch(value):
      raise ValueError("the metadata 'source-sha256' has 64 hexadecimal digits, in lower case")


def metadata_bytes(metadata: Mapping[str, str]) -> bytes:
  """A field for each pair, in order."""
  pairs = ((key.encode(), value.encode()) for key, value in metadata.items())
  return b"".join(field_bytes(PAIR, varint(len(k)) + k + v) for k, v in pairs)


def read_pair(content: bytes, metadata: dict[str, str]) -> None:
  """Adds the key and value of a field to `metadata`."""
  view = memoryview(content)
  length, at = read_varint(view, 0, "header")
  key, at = read_bytes(view, at, length)
  name = bytes(key).decode()
  if name in metadata:
    raise CodecError(f"header is not valid: the metadata {name!r} stand there twice")
  metadata[name] = bytes(view[at:]).decode()
