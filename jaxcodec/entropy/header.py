"""The front of a .jxc file, version 1: its streams, its metadata, and where each chunk stands.

The bytes are laid out in docs/bitstream.md. Each number is checked before memory is taken for it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxcodec.entropy import picture as picture_lib
from jaxcodec.entropy.fields import (
  PAIR,
  check_metadata,
  crc_bytes,
  metadata_bytes,
  read_bytes,
  read_fields,
  read_pair,
  read_varint,
  varint,
)
from jaxcodec.entropy.picture import Picture
from jaxcodec.entropy.stream import Stream, parse_stream, payload_limits, stream_bytes
from jaxcodec.errors import CodecError

MAGIC = b"\x8aJXC"
VERSION = 1
RECORD_FRAME = 5  # Bytes of a record beside its payload: coder and checksum.

_MAX_HEADER = 1 << 16
_MAX_STREAMS = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
  """What a file says about itself; ValueError where that cannot be.

  Attributes:
    streams: 1 to 1024 of them, all of it in 65536 bytes.
    metadata: texts about the file as a whole; see `fields.check_metadata`.
  """

  streams: tuple[Stream | Picture, ...]
  metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if not 1 <= len(self.streams) <= _MAX_STREAMS:
      raise ValueError(f"a file has 1 to {_MAX_STREAMS} streams, not {len(self.streams)}")
    check_metadata(self.metadata)


class Layout(NamedTuple):
  """A file's header and places.

  Attributes:
    header: what the file says about itself.
    crc: checksum of the header, 4 bytes, which those of the chunks start from.
    starts: for each stream the offsets of its records, int64 [chunks + 1], and where they end.
  """

  header: Header
  crc: bytes
  starts: tuple[np.ndarray, ...]


def header_bytes(header: Header) -> bytes:
  """The header as it stands in a file, from the magic to its checksum; the index comes next.

  Raises:
    ValueError: if it takes more than 65536 bytes.
  """
  body = varint(len(header.streams))
  for description in map(_description, header.streams):
    body += varint(len(description)) + description
  body += metadata_bytes(header.metadata)
  if len(body) > _MAX_HEADER:
    raise ValueError(f"streams and metadata take {len(body)} bytes, more than {_MAX_HEADER}")
  data = MAGIC + bytes([VERSION]) + varint(len(body)) + body
  return data + crc_bytes(data)


def index_bytes(lengths: Sequence[int], header_crc: bytes) -> bytes:
  """The index of a file: the bytes of each chunk's payload, in order of the records."""
  width = max(1, -(-max(lengths, default=0).bit_length() // 8))
  data = bytes([width]) + b"".join(length.to_bytes(width, "little") for length in lengths)
  return data + crc_bytes(data, int.from_bytes(header_crc, "little"))


def read_header(data: bytes) -> Header:
  """The header at the start of `data`; what comes after it is not looked at.

  Raises:
    CodecError: if this is no .jxc file, too new, truncated, damaged, or says what cannot be.
  """
  return _parse_header(memoryview(data))[0]


def read_layout(data: bytes, *, cut: bool = False) -> Layout:
  """The header and the places of all chunks; the file must end where the last of them does, or if
  `cut` not after it.

  Raises:
    CodecError: as `read_header`, and if the index is damaged or what it says cannot be.
  """
  view = memoryview(data)
  header, at = _parse_header(view)
  crc = bytes(view[at - 4 : at])
  counts = [stream.num_chunks for stream in header.streams]
  width = view[at] if at < len(view) else 1
  size = 1 + width * sum(counts)
  # Each chunk has a length in the index and a frame around its payload, if nothing else.
  if size + 4 + (0 if cut else RECORD_FRAME * sum(counts)) > len(view) - at:
    raise CodecError(f"truncated: {sum(counts)} chunks do not fit {len(view) - at} bytes")
  end = at + size + 4
  if view[end - 4 : end] != crc_bytes(view[at : end - 4], int.from_bytes(crc, "little")):
    raise CodecError("index is damaged (checksum)")
  if not 1 <= width <= 4:
    raise CodecError(f"index is not valid: lengths of {width} bytes")
  table = np.frombuffer(view[at + 1 : end - 4], np.uint8).reshape(-1, width)
  lengths = np.pad(table, ((0, 0), (0, 4 - width))).view("<u4")[:, 0].astype(np.int64)
  places = np.cumsum(np.concatenate([[end], lengths + RECORD_FRAME]))
  starts, first = [], 0
  for stream, count in zip(header.streams, counts, strict=True):
    _check_lengths(stream, lengths[first : first + count])
    starts.append(places[first : first + count + 1])
    first += count
  if places[-1] > len(view) and not cut:
    raise CodecError(
      f"truncated: the last chunk ends {places[-1] - len(view)} bytes after the file"
    )
  if places[-1] < len(view):
    raise CodecError(f"{len(view) - places[-1]} bytes too many after the last chunk")
  return Layout(header, crc, tuple(starts))


def _check_lengths(stream: Stream | Picture, lengths: np.ndarray) -> None:
  """No chunk is smaller than its scales, or larger than its scales and packed codes."""
  if not lengths.size:
    return
  last = stream.num_chunks - 1
  for part, index in ((lengths[:-1], 0), (lengths[-1:], last)):
    if isinstance(stream, Picture):
      least, most = picture_lib.payload_limits(stream)
    else:
      least, most = payload_limits(stream, index)
    if part.size and (part.min() < least or part.max() > most):
      raise CodecError(f"index is not valid: a chunk's payload is not {least} to {most} bytes")


def _description(stream: Stream | Picture) -> bytes:
  if isinstance(stream, Picture):
    return picture_lib.picture_bytes(stream)
  return stream_bytes(stream)


def _described(description: memoryview) -> Stream | Picture:
  if read_varint(description, 0, "header")[0] == picture_lib.KIND:
    return picture_lib.parse_picture(description)
  return parse_stream(description)


def _parse_header(view: memoryview) -> tuple[Header, int]:
  """The header, and the offset of what comes after it."""
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
    return _parse_body(view[start:end]), end + 4
  except ValueError as error:
    raise CodecError(f"header is not valid: {error}") from error


def _parse_body(body: memoryview) -> Header:
  count, at = read_varint(body, 0, "header")
  if count > _MAX_STREAMS:
    raise CodecError(f"header is not valid: {count} streams")
  streams: list[Stream | Picture] = []
  for _ in range(count):
    length, at = read_varint(body, at, "header")
    description, at = read_bytes(body, at, length)
    streams.append(_described(description))
  metadata: dict[str, str] = {}
  for _, content in read_fields(body, at, (PAIR,)):
    read_pair(content, metadata)
  return Header(streams=tuple(streams), metadata=metadata)
