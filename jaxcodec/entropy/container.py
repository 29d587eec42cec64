"""The .jxc file, version 1: a header, then one checksummed record per chunk of frames.

Shapes: B batch, F frames of a chunk, Q codebooks, S segments of a chunk. The bytes are laid out
in docs/bitstream.md. Who reads needs nothing but this file's bytes, and the prior where the writer
had one: the codec's name and the hash of its weights in the header tell which.

A damaged, truncated, foreign or hostile file raises `CodecError` with one line. A chunk is at most
2^22 codes and chunks are read one by one, so what a reader holds is bounded whatever a file says.
"""

import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from jaxcodec.entropy import adaptive, bits
from jaxcodec.entropy.header import (
  Header,
  chunk_shape,
  chunk_shapes,
  crc_bytes,
  header_bytes,
  parse_header,
  read_header,
  read_varint,
  varint,
)
from jaxcodec.errors import CodecError

__all__ = [
  "Header",
  "chunk_shape",
  "chunk_shapes",
  "encode_chunk",
  "header_bytes",
  "read_chunks",
  "read_header",
  "write",
]

_MIN_RECORD = 6  # One byte of length, one of coder, four of checksum.
_PACKED, _ADAPTIVE, _ADAPTIVE_PRIOR = 0, 1, 2


def encode_chunk(
  header: Header,
  index: int,
  codes: np.ndarray,
  scales: np.ndarray | None = None,
  prior: np.ndarray | None = None,
) -> bytes:
  """The record of chunk `index`: whichever is smaller of packed and adaptively coded codes.

  Args:
    header: of the file that the record is for; its checksum enters the record's.
    index: place of the chunk in the file, from 0.
    codes: integers [B, F, Q] as `chunk_shape` says.
    scales: float32 [B, S], finite and >= 0, if the header has segment_frames, else None.
    prior: as for `adaptive.encode`; the reader needs the same.

  Raises:
    ValueError: if an argument does not fit the header or is out of range.
  """
  shape, sizes = chunk_shape(header, index), header.codebook_sizes
  if codes.shape != shape:
    raise ValueError(f"chunk {index} has codes of shape {shape}, not {codes.shape}")
  # First, as it checks that each code is in its codebook: the widths alone would let some pass.
  coded = adaptive.encode(codes, sizes, prior)
  coder = _ADAPTIVE if prior is None else _ADAPTIVE_PRIOR
  widths = bits.widths(sizes)
  if len(coded) >= bits.packed_bytes(shape, widths):
    coded, coder = bits.pack(codes, widths), _PACKED
  payload = _scale_bytes(header, shape, scales) + coded
  record = varint(len(payload)) + bytes([coder]) + payload
  return record + _chunk_crc(record, header_bytes(header), index, coder, prior)


def write(header: Header, records: Iterable[bytes]) -> bytes:
  """The file of `header` and its chunks' `records`, in order; ValueError if their count is off."""
  records = list(records)
  if len(records) != header.num_chunks:
    raise ValueError(f"{len(records)} records for {header.num_chunks} chunks")
  return b"".join([header_bytes(header), *records])


def read_chunks(
  data: bytes, prior: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
  """Codes int32 [B, F, Q] and scales float32 [B, S] (or None) of each chunk in turn.

  The header is checked in the call; each chunk when its turn comes, its checksum first; what is
  left over after the last chunk at the end.

  Args:
    data: a whole file.
    prior: what the writer had. Files written without one ignore it.

  Raises:
    CodecError: as `read_header`, and if a chunk is truncated, damaged, out of place, or needs
      another prior.
    ValueError: if the prior does not fit the header's codebooks.
  """
  view = memoryview(data)
  header, start = parse_header(view)
  if prior is not None:
    adaptive.check_prior(prior, header.codebook_sizes)
  if header.num_chunks * _MIN_RECORD > len(view) - start:
    raise CodecError(f"truncated: {header.num_chunks} chunks do not fit {len(view) - start} bytes")
  return _read_chunks(view, header, start, prior)


def _read_chunks(view, header, start, prior):
  head = view[:start]
  for index in range(header.num_chunks):
    what = f"chunk {index}"
    length, body = read_varint(view, start, what)
    end = body + 1 + length
    if end + 4 > len(view):
      raise CodecError(f"truncated: {what} ends {end + 4 - len(view)} bytes after the file")
    coder = view[body]
    if coder == _ADAPTIVE_PRIOR and prior is None:
      raise CodecError(f"{what} needs the prior that it was written with, or is damaged")
    if view[end : end + 4] != _chunk_crc(view[start:end], head, index, coder, prior):
      hint = ", or the prior is another one" if coder == _ADAPTIVE_PRIOR else ""
      raise CodecError(f"{what} is damaged (checksum){hint}")
    try:
      yield _decode_chunk(header, index, coder, view[body + 1 : end], prior)
    except CodecError as error:
      raise CodecError(f"{what}: {error}") from error
    start = end + 4
  if start != len(view):
    raise CodecError(f"{len(view) - start} bytes too many after the last chunk")


def _decode_chunk(header, index, coder, payload, prior):
  shape, sizes = chunk_shape(header, index), header.codebook_sizes
  widths = bits.widths(sizes)
  packed_bytes = bits.packed_bytes(shape, widths)
  num_scales = _num_segments(header, shape)
  split = 4 * shape[0] * num_scales
  if len(payload) < split:
    raise CodecError("its scales do not fit it")
  scales, coded = None, payload[split:]
  if num_scales:
    scales = np.frombuffer(payload[:split], "<f4").reshape(shape[0], num_scales)
    scales = scales.astype(np.float32)
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
      raise CodecError("a scale is not a finite number >= 0")
  if coder == _PACKED:
    codes = bits.unpack(coded, shape, widths)
    if np.any(codes.max(axis=(0, 1)) >= np.asarray(sizes)):
      raise CodecError("a code is outside its codebook")
  elif coder in (_ADAPTIVE, _ADAPTIVE_PRIOR):
    # The writer takes the smaller one, so more bytes than packed are no writer's.
    if len(coded) >= packed_bytes:
      raise CodecError(f"{len(coded)} bytes of adaptively coded codes, packed are {packed_bytes}")
    prior = prior if coder == _ADAPTIVE_PRIOR else None
    codes = adaptive.decode(coded, shape, sizes, prior)
  else:
    raise CodecError(f"coder {coder} is unknown to this reader")
  return codes, scales


def _num_segments(header: Header, shape: tuple[int, int, int]) -> int:
  return -(-shape[1] // header.segment_frames) if header.segment_frames else 0


def _scale_bytes(header, shape, scales):
  expected = (shape[0], _num_segments(header, shape)) if header.segment_frames else None
  got = None if scales is None else scales.shape
  if got != expected:
    raise ValueError(f"scales have shape {got}, the header asks for {expected}")
  if scales is None:
    return b""
  stored = scales.astype("<f4")
  if not (np.isfinite(stored).all() and (stored >= 0).all()):
    raise ValueError("scales must be finite and >= 0")
  return stored.tobytes()


def _chunk_crc(record, head, index: int, coder: int, prior: np.ndarray | None) -> bytes:
  """Checksum of a record, seeded with its file's header and its place in it, and with the prior."""
  seed = zlib.crc32(index.to_bytes(8, "little"), int.from_bytes(head[-4:], "little"))
  if coder == _ADAPTIVE_PRIOR:
    seed = zlib.crc32(np.ascontiguousarray(prior, "<i8").tobytes(), seed)
  return crc_bytes(record, seed)
