"""The .jxc file, version 1: a header, an index, then one checksummed record per chunk of frames.

Shapes: B batch, F frames of a chunk, Q codebooks, S segments of a chunk. The bytes are laid out
in docs/bitstream.md. Who reads needs nothing but this file's bytes, and the priors where the writer
had them: the codec's name and the hash of its weights in the header tell which.

A damaged, truncated, foreign or hostile file raises `CodecError` with one line. A chunk is at most
2^22 codes and chunks are read one by one, so what a reader holds is bounded whatever a file says.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from jaxcodec.entropy import adaptive, bits, learned as learned_lib
from jaxcodec.entropy.fields import crc_bytes
from jaxcodec.entropy.header import (
  RECORD_FRAME,
  VERSION,
  Header,
  Layout,
  header_bytes,
  index_bytes,
  read_header,
  read_layout,
)
from jaxcodec.entropy.learned import LearnedPrior
from jaxcodec.entropy.picture import Picture
from jaxcodec.entropy.stream import Stream, check_prior, chunk_shape, chunk_shapes, num_segments
from jaxcodec.errors import CodecError

__all__ = [
  "VERSION",
  "Header",
  "Picture",
  "Stream",
  "check",
  "chunk_shape",
  "chunk_shapes",
  "encode_chunk",
  "header_bytes",
  "join",
  "picture_chunks",
  "picture_record",
  "read_chunks",
  "read_header",
  "read_layout",
  "read_picture",
  "record_crc",
  "sound_stream",
  "write",
]

_PACKED, _ADAPTIVE, _ADAPTIVE_PRIOR, _LEARNED, _LATENTS, _FITTED = 0, 1, 2, 3, 4, 5
# Rows under a learned prior are decoded this many at a time: together they take little longer.
_AHEAD = 32


def encode_chunk(
  header: Header,
  index: int,
  codes: np.ndarray,
  scales: np.ndarray | None = None,
  prior: np.ndarray | None = None,
  learned: bytes | None = None,
  *,
  stream: int = 0,
) -> bytes:
  """The record of chunk `index`: the smallest of its codes packed, adaptively coded and `learned`.

  Args:
    header: of the file that the record is for; its checksum enters the record's.
    index: place of the chunk in its stream, from 0.
    codes: integers [B, F, Q] as `chunk_shape` says.
    scales: float32 [B, S], finite and >= 0, if the stream has segment_frames, else None.
    prior: that of the stream's `prior_crc`, or None; the reader needs the same.
    learned: what `learned.encode` made of the codes, under the prior of `learned_digest`, or None.
    stream: which of the header's streams the chunk is of.

  Raises:
    ValueError: if an argument does not fit the header or is out of range.
  """
  described = sound_stream(header, stream)
  shape, sizes = chunk_shape(described, index), described.codebook_sizes
  if codes.shape != shape:
    raise ValueError(f"chunk {index} has codes of shape {shape}, not {codes.shape}")
  if prior is not None and not check_prior(described, prior):
    raise ValueError("the prior is not that of the stream's prior_crc")
  if learned is not None and described.learned_digest is None:
    raise ValueError("the stream names no learned prior")
  # First, as it checks that each code is in its codebook: the widths alone would let some pass.
  coded = adaptive.encode(codes, sizes, prior)
  coder = _ADAPTIVE if prior is None else _ADAPTIVE_PRIOR
  widths = bits.widths(sizes)
  if len(coded) >= bits.packed_bytes(shape, widths):
    coded, coder = bits.pack(codes, widths), _PACKED
  if learned is not None and len(learned) < len(coded):
    coded, coder = learned, _LEARNED
  body = bytes([coder]) + _scale_bytes(described, shape, scales) + coded
  return body + record_crc(body, header_bytes(header)[-4:], stream, index)


def write(header: Header, records: Iterable[bytes]) -> bytes:
  """The file of `header` and its chunks' `records`, stream by stream; ValueError if their count
  is off."""
  records, count = list(records), sum(stream.num_chunks for stream in header.streams)
  if len(records) != count:
    raise ValueError(f"{len(records)} records for {count} chunks")
  head = header_bytes(header)
  index = index_bytes([len(record) - RECORD_FRAME for record in records], head[-4:])
  return b"".join([head, index, *records])


def read_chunks(
  data: bytes,
  prior: np.ndarray | None = None,
  learned: LearnedPrior | None = None,
  *,
  stream: int = 0,
  first: int = 0,
  last: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
  """Codes int32 [B, F, Q] and scales float32 [B, S] (or None) of each chunk in turn.

  Header and index are checked in the call; each chunk when its turn comes, its checksum first.
  Other chunks are not looked at.

  Args:
    data: a whole file.
    prior, learned: what the writer had. Streams written without them ignore them.
    stream: which of the file's streams to read.
    first, last: the chunks from `first` up to, not with, `last`; None for all.

  Raises:
    CodecError: as `read_layout`, and if a chunk is damaged, out of place, or the prior is missing
      or another one.
    ValueError: if there is no such stream, or the prior does not fit its codebooks.
  """
  layout = read_layout(data)
  described = sound_stream(layout.header, stream)
  same = check_prior(described, prior)
  if prior is not None and described.prior_crc is not None and not same:
    raise CodecError("the prior is another one than the stream was written with")
  asked = described.learned_digest
  if learned is not None and asked is not None and learned_lib.digest(learned) != asked:
    raise CodecError("the learned prior is another one than the stream was written with")
  indices = range(described.num_chunks)[first:last]
  return _read_chunks(memoryview(data), layout, stream, indices, prior if same else None, learned)


def check(data: bytes) -> Header:
  """The header of a file whose every checksum holds; needs no weights.

  Raises:
    CodecError: as `read_layout`, and if a chunk's checksum does not hold.
  """
  layout, view = read_layout(data), memoryview(data)
  for stream, described in enumerate(layout.header.streams):
    for index in range(described.num_chunks):
      _checked_record(view, layout, stream, index)
  return layout.header


def join(files: Sequence[bytes], metadata: Mapping[str, str] | None = None) -> bytes:
  """One file of all the streams of several, in order; nothing is decoded.

  What a file says of itself is said of its streams in the new one, where they do not say better.

  Args:
    files: the bytes of `.jxc` files.
    metadata: of the new file.

  Raises:
    CodecError: as `check`, for any of the files.
    ValueError: if the streams or the metadata are too many for one file.
  """
  layouts = [read_layout(data) for data in files]
  streams = [
    replace(stream, metadata={**layout.header.metadata, **stream.metadata})
    for layout in layouts
    for stream in layout.header.streams
  ]
  header = Header(streams=tuple(streams), metadata=metadata or {})
  crc, records = header_bytes(header)[-4:], []
  place = 0
  for data, layout in zip(files, layouts, strict=True):
    for stream, described in enumerate(layout.header.streams):
      for index in range(described.num_chunks):
        body = _checked_record(memoryview(data), layout, stream, index)
        records.append(bytes(body) + record_crc(body, crc, place, index))
      place += 1
  return write(header, records)


def sound_stream(header: Header, number: int) -> Stream:
  """What a file says about its stream `number`, which is sound.

  Raises:
    CodecError: if it is a picture.
    ValueError: if there is no such stream.
  """
  if not 0 <= number < len(header.streams):
    raise ValueError(f"no stream {number} in a file of {len(header.streams)}")
  described = header.streams[number]
  if isinstance(described, Picture):
    raise CodecError(f"stream {number} is a picture and no sound")
  return described


def picture_record(header: Header, payload: bytes, *, stream: int = 0, index: int = 0) -> bytes:
  """The record of chunk `index` of a picture's latents, for `write`."""
  body = bytes([_picture_coder(header.streams[stream])]) + payload
  return body + record_crc(body, header_bytes(header)[-4:], stream, index)


def _picture_coder(described: Stream | Picture) -> int:
  return _FITTED if isinstance(described, Picture) and described.networks else _LATENTS


def read_picture(data: bytes, *, stream: int = 0) -> bytes:
  """The latents of a picture of one chunk as `picture_record` took them.

  Raises:
    CodecError: as `picture_chunks`, and as the function that it returns.
    ValueError: if there is no such stream.
  """
  payload = picture_chunks(data, stream=stream)(0)
  assert payload is not None
  return payload


def picture_chunks(
  data: bytes, *, stream: int = 0, cut: bool = False
) -> Callable[[int], bytes | None]:
  """A function that reads a chunk of a picture by its number, its checksum first.

  Args:
    cut: whether the file may end too early: chunks that are not whole are None.

  Raises:
    CodecError: as `read_layout`, and if the stream is none of a picture; the function, if a chunk
      is damaged.
    ValueError: if there is no such stream.
  """
  layout, view = read_layout(data, cut=cut), memoryview(data)
  if not 0 <= stream < len(layout.header.streams):
    raise ValueError(f"no stream {stream} in a file of {len(layout.header.streams)}")
  if not isinstance(layout.header.streams[stream], Picture):
    raise CodecError(f"stream {stream} is sound and no picture")

  def read(index: int) -> bytes | None:
    if layout.starts[stream][index + 1] > len(view):
      return None
    body = _checked_record(view, layout, stream, index)
    if body[0] != _picture_coder(layout.header.streams[stream]):
      raise CodecError(f"chunk {index}: coder {body[0]} is unknown to this reader")
    return bytes(body[1:])

  return read


def _read_chunks(view, layout: Layout, stream: int, indices: range, prior, learned):
  described = sound_stream(layout.header, stream)
  ahead: dict[int, np.ndarray] = {}
  for index in indices:
    body = _checked_record(view, layout, stream, index)
    try:
      scales, coded = _split(described, index, body[1:])
      if body[0] != _LEARNED:
        yield _decode_chunk(described, index, body[0], coded, prior), scales
        continue
      if index not in ahead:
        later = range(index, indices.stop)[: max(1, _AHEAD // described.batch)]
        ahead = _decode_ahead(view, layout, stream, later, learned)
      yield ahead.pop(index), scales
    except CodecError as error:
      raise CodecError(f"{_name(layout, stream, index)}: {error}") from error


def _checked_record(view, layout: Layout, stream: int, index: int) -> memoryview:
  """Coder and payload of a chunk whose checksum holds."""
  start, end = (int(at) for at in layout.starts[stream][index : index + 2])
  body = view[start : end - 4]
  if view[end - 4 : end] != record_crc(body, layout.crc, stream, index):
    raise CodecError(f"{_name(layout, stream, index)} is damaged (checksum)")
  return body


def _name(layout: Layout, stream: int, index: int) -> str:
  return f"chunk {index}" + (f" of stream {stream}" if len(layout.starts) > 1 else "")


def _split(stream: Stream, index: int, payload) -> tuple[np.ndarray | None, memoryview]:
  """A payload's scales, and its coded codes."""
  shape = chunk_shape(stream, index)
  num_scales = num_segments(stream, shape)
  split, scales = 4 * shape[0] * num_scales, None
  if num_scales:
    scales = np.frombuffer(payload[:split], "<f4").reshape(shape[0], num_scales)
    scales = scales.astype(np.float32)
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
      raise CodecError("a scale is not a finite number >= 0")
  return scales, payload[split:]


def _decode_chunk(stream: Stream, index, coder, coded, prior):
  shape, sizes = chunk_shape(stream, index), stream.codebook_sizes
  widths = bits.widths(sizes)
  if coder == _PACKED:
    codes = bits.unpack(coded, shape, widths)
    if np.any(codes.max(axis=(0, 1)) >= np.asarray(sizes)):
      raise CodecError("a code is outside its codebook")
    return codes
  if coder not in (_ADAPTIVE, _ADAPTIVE_PRIOR):
    raise CodecError(f"coder {coder} is unknown to this reader")
  _require_smaller(coded, shape, widths)
  if coder == _ADAPTIVE_PRIOR and stream.prior_crc is None:
    raise CodecError("coded with a prior, and the header names none")
  if coder == _ADAPTIVE_PRIOR and prior is None:
    raise CodecError("it needs the prior that it was written with")
  return adaptive.decode(coded, shape, sizes, prior if coder == _ADAPTIVE_PRIOR else None)


def _require_smaller(coded, shape, widths):
  # The writer takes the smallest, so more bytes than packed are no writer's.
  packed_bytes = bits.packed_bytes(shape, widths)
  if len(coded) >= packed_bytes:
    raise CodecError(f"{len(coded)} bytes of entropy-coded codes, packed are {packed_bytes}")


def _decode_ahead(view, layout: Layout, stream: int, indices, learned) -> dict[int, np.ndarray]:
  """Codes of the first of some chunks, and of those after it that are under the learned prior.

  What is wrong with a later chunk is left to its turn.
  """
  described = sound_stream(layout.header, stream)
  if described.learned_digest is None:
    raise CodecError("coded under a learned prior, and the header names none")
  if learned is None:
    raise CodecError("it needs the learned prior that it was written with")
  widths = bits.widths(described.codebook_sizes)
  coded, shapes = [], []
  for index in indices:
    try:
      body = _checked_record(view, layout, stream, index)
      if body[0] != _LEARNED:
        break
      shape = chunk_shape(described, index)
      if not learned.fits(described.codebook_sizes, shape[1]):
        raise CodecError("the learned prior is not for chunks of this shape")
      rest = _split(described, index, body[1:])[1]
      _require_smaller(rest, shape, widths)
      learned_lib.check_payload(rest, shape)
    except CodecError:
      if index == indices[0]:
        raise
      break
    coded.append(bytes(rest))
    shapes.append(shape)
  codes = learned_lib.decode(learned, coded, shapes)
  if codes[0] is None:
    raise CodecError("codes under a learned prior are damaged")
  return {indices[0] + i: some for i, some in enumerate(codes) if some is not None}


def _scale_bytes(stream: Stream, shape, scales):
  expected = (shape[0], num_segments(stream, shape)) if stream.segment_frames else None
  got = None if scales is None else scales.shape
  if got != expected:
    raise ValueError(f"scales have shape {got}, the header asks for {expected}")
  if scales is None:
    return b""
  stored = scales.astype("<f4")
  if not (np.isfinite(stored).all() and (stored >= 0).all()):
    raise ValueError("scales must be finite and >= 0")
  return stored.tobytes()


def record_crc(body, header_crc: bytes, stream: int, index: int) -> bytes:
  """Checksum of a record, seeded with its file's header and its place in the file."""
  place = stream.to_bytes(4, "little") + index.to_bytes(8, "little")
  return crc_bytes(
    body, int.from_bytes(crc_bytes(place, int.from_bytes(header_crc, "little")), "little")
  )
