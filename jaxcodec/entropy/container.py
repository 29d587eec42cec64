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

from jaxcodec.entropy import adaptive, bits, learned as learned_lib
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
from jaxcodec.entropy.learned import LearnedPrior
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
_PACKED, _ADAPTIVE, _ADAPTIVE_PRIOR, _LEARNED = 0, 1, 2, 3
# Chunks under a learned prior are decoded this many at a time: together they take little longer.
_AHEAD = 32


def encode_chunk(
  header: Header,
  index: int,
  codes: np.ndarray,
  scales: np.ndarray | None = None,
  prior: np.ndarray | None = None,
  learned: tuple[bytes, bytes] | None = None,
) -> bytes:
  """The record of chunk `index`: its codes packed, adaptively coded or under a learned prior.

  The smallest is taken.

  Args:
    header: of the file that the record is for; its checksum enters the record's.
    index: place of the chunk in the file, from 0.
    codes: integers [B, F, Q] as `chunk_shape` says.
    scales: float32 [B, S], finite and >= 0, if the header has segment_frames, else None.
    prior: as for `adaptive.encode`; the reader needs the same.
    learned: what `learned.encode` made of the codes, and the `learned.digest` of its prior.

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
  if learned is not None and len(learned[0]) < len(coded):
    coded, coder = learned[0], _LEARNED
  payload = _scale_bytes(header, shape, scales) + coded
  record = varint(len(payload)) + bytes([coder]) + payload
  return record + _chunk_crc(record, header_bytes(header), index, _secret(coder, prior, learned))


def write(header: Header, records: Iterable[bytes]) -> bytes:
  """The file of `header` and its chunks' `records`, in order; ValueError if their count is off."""
  records = list(records)
  if len(records) != header.num_chunks:
    raise ValueError(f"{len(records)} records for {header.num_chunks} chunks")
  return b"".join([header_bytes(header), *records])


def read_chunks(
  data: bytes, prior: np.ndarray | None = None, learned: LearnedPrior | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
  """Codes int32 [B, F, Q] and scales float32 [B, S] (or None) of each chunk in turn.

  The header is checked in the call; each chunk when its turn comes, its checksum first; what is
  left over after the last chunk at the end.

  Args:
    data: a whole file.
    prior, learned: what the writer had. Files written without them ignore them.

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
  return _read_chunks(view, header, start, prior, learned)


def _read_chunks(view, header, start, prior, learned):
  head = view[:start]
  seeds = {_ADAPTIVE_PRIOR: _prior_bytes(prior), _LEARNED: learned and learned_lib.digest(learned)}
  ahead: dict[int, np.ndarray] = {}
  for index in range(header.num_chunks):
    coder, payload, end = _record(view, start, head, index, seeds)
    try:
      scales, coded = _split(header, index, payload)
      if coder == _LEARNED:
        if index not in ahead:
          ahead = _decode_ahead(view, start, head, index, seeds, header, learned)
        yield ahead.pop(index), scales
      else:
        yield _decode_chunk(header, index, coder, coded, prior), scales
    except CodecError as error:
      raise CodecError(f"chunk {index}: {error}") from error
    start = end
  if start != len(view):
    raise CodecError(f"{len(view) - start} bytes too many after the last chunk")


def _record(view, start, head, index, seeds) -> tuple[int, memoryview, int]:
  """Coder, payload and end of the record at `start`, its checksum checked."""
  what = f"chunk {index}"
  length, body = read_varint(view, start, what)
  end = body + 1 + length
  if end + 4 > len(view):
    raise CodecError(f"truncated: {what} ends {end + 4 - len(view)} bytes after the file")
  coder = view[body]
  kind = {_ADAPTIVE_PRIOR: "prior", _LEARNED: "learned prior"}.get(coder)
  if kind and seeds[coder] is None:
    raise CodecError(f"{what} needs the {kind} that it was written with, or is damaged")
  if view[end : end + 4] != _chunk_crc(view[start:end], head, index, seeds.get(coder, b"")):
    hint = f", or the {kind} is another one" if kind else ""
    raise CodecError(f"{what} is damaged (checksum){hint}")
  return coder, view[body + 1 : end], end + 4


def _split(header, index, payload) -> tuple[np.ndarray | None, memoryview]:
  """A payload's scales, and its coded codes."""
  shape = chunk_shape(header, index)
  num_scales = _num_segments(header, shape)
  split = 4 * shape[0] * num_scales
  if len(payload) < split:
    raise CodecError("its scales do not fit it")
  scales = None
  if num_scales:
    scales = np.frombuffer(payload[:split], "<f4").reshape(shape[0], num_scales)
    scales = scales.astype(np.float32)
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
      raise CodecError("a scale is not a finite number >= 0")
  return scales, payload[split:]


def _decode_chunk(header, index, coder, coded, prior):
  shape, sizes = chunk_shape(header, index), header.codebook_sizes
  widths = bits.widths(sizes)
  if coder == _PACKED:
    codes = bits.unpack(coded, shape, widths)
    if np.any(codes.max(axis=(0, 1)) >= np.asarray(sizes)):
      raise CodecError("a code is outside its codebook")
    return codes
  if coder not in (_ADAPTIVE, _ADAPTIVE_PRIOR):
    raise CodecError(f"coder {coder} is unknown to this reader")
  _require_smaller(coded, shape, widths)
  return adaptive.decode(coded, shape, sizes, prior if coder == _ADAPTIVE_PRIOR else None)


def _require_smaller(coded, shape, widths):
  # The writer takes the smallest, so more bytes than packed are no writer's.
  if len(coded) >= bits.packed_bytes(shape, widths):
    raise CodecError(f"{len(coded)} bytes of codes, packed are {bits.packed_bytes(shape, widths)}")


def _decode_ahead(view, start, head, index, seeds, header, learned) -> dict[int, np.ndarray]:
  """Codes of the chunk at `start` and of those after it under the learned prior, up to 32 rows.

  What is wrong with a later chunk is left to its turn.
  """
  widths = bits.widths(header.codebook_sizes)
  coded, shapes = [], []
  for later in range(index, min(header.num_chunks, index + max(1, _AHEAD // header.batch))):
    try:
      coder, payload, start = _record(view, start, head, later, seeds)
      if coder != _LEARNED:
        break
      shape = chunk_shape(header, later)
      if not learned.fits(header.codebook_sizes, shape[1]):
        raise CodecError("the learned prior is not for chunks of this shape")
      rest = _split(header, later, payload)[1]
      _require_smaller(rest, shape, widths)
      learned_lib.check_payload(rest, shape)
    except CodecError:
      if later == index:
        raise
      break
    coded.append(bytes(rest))
    shapes.append(shape)
  codes = learned_lib.decode(learned, coded, shapes)
  if codes[0] is None:
    raise CodecError("codes under a learned prior are damaged")
  return {index + i: some for i, some in enumerate(codes) if some is not None}


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


def _secret(coder: int, prior: np.ndarray | None, learned: tuple[bytes, bytes] | None) -> bytes:
  """What the checksum covers beside the file, so that another prior is found."""
  if coder == _LEARNED and learned:
    return learned[1]
  return (coder == _ADAPTIVE_PRIOR and _prior_bytes(prior)) or b""


def _prior_bytes(prior: np.ndarray | None) -> bytes | None:
  return None if prior is None else np.ascontiguousarray(prior, "<i8").tobytes()


def _chunk_crc(record, head, index: int, secret: bytes) -> bytes:
  """Checksum of a record, seeded with its file's header and its place in it, and with the prior."""
  seed = zlib.crc32(index.to_bytes(8, "little"), int.from_bytes(head[-4:], "little"))
  return crc_bytes(record, zlib.crc32(secret, seed))
