"""The .jxc file: exact round trips, golden bytes, small framing, and no harm from any bytes."""

import dataclasses
import math
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxcodec.entropy import adaptive, bits, container
from jaxcodec.errors import CodecError


def make_header(**changes):
  fields = {
    "codec": "test",
    "weights_hash": bytes(range(16)),
    "sample_rate": 16_000,
    "channels": 1,
    "batch": 2,
    "num_samples": 320 * 23 - 5,
    "hop_length": 320,
    "num_frames": 23,
    "frames_per_chunk": 10,
    "segment_frames": 5,
    "codebook_sizes": (8, 8, 100, 1),
  }
  return container.Header(**fields | changes)


def make_chunks(header, seed=0, power=1):
  """Random codes (the larger `power`, the more uneven) and scales of every chunk."""
  rng, chunks = np.random.default_rng(seed), []
  for shape in container.chunk_shapes(header):
    codes = (rng.random(shape) ** power * header.codebook_sizes).astype(np.int32)
    scales = None
    if header.segment_frames:
      segments = -(-shape[1] // header.segment_frames)
      scales = rng.random((shape[0], segments), np.float32)
    chunks.append((codes, scales))
  return chunks


def make_file(header, chunks, prior=None):
  records = [
    container.encode_chunk(header, index, codes, scales, prior)
    for index, (codes, scales) in enumerate(chunks)
  ]
  return container.write(header, records)


def assert_same_chunks(got, chunks):
  for (got_codes, got_scales), (codes, scales) in zip(got, chunks, strict=True):
    assert got_codes.dtype == np.int32
    np.testing.assert_array_equal(got_codes, codes)
    assert (got_scales is None) == (scales is None)
    if scales is not None:
      np.testing.assert_array_equal(got_scales, scales, strict=True)


def read_all(data, prior=None):
  """Reads everything; what comes out must be legal by the file's own header."""
  header = container.read_header(data)
  count = 0
  for codes, scales in container.read_chunks(data, prior):
    assert codes.shape == container.chunk_shape(header, count)
    assert codes.min() >= 0
    assert (codes.max(axis=(0, 1)) < header.codebook_sizes).all()
    assert scales is None or (np.isfinite(scales).all() and (scales >= 0).all())
    count += 1
  assert count == header.num_chunks
  return header


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_round_trip_and_never_larger_than_packed(data):
  draw = data.draw
  sizes = tuple(draw(st.lists(st.integers(1, 2000), min_size=1, max_size=4)))
  num_frames, segment = draw(st.integers(0, 60)), draw(st.integers(0, 7))
  header = make_header(
    batch=draw(st.integers(1, 3)),
    num_frames=num_frames,
    num_samples=draw(st.integers(0, 320 * num_frames)),
    segment_frames=segment,
    frames_per_chunk=draw(st.integers(1, 5)) * (segment or 8),
    codebook_sizes=sizes,
  )
  prior = np.ones((len(sizes), max(sizes)), np.int32)
  prior[np.arange(max(sizes)) >= np.asarray(sizes)[:, None]] = 0
  prior = draw(st.sampled_from([None, prior]))
  chunks = make_chunks(header, power=draw(st.sampled_from([1, 5])))
  file = make_file(header, chunks, prior)
  assert container.read_header(file) == header
  assert_same_chunks(container.read_chunks(file, prior), chunks)
  packed = len(container.header_bytes(header))
  for (codes, scales), shape in zip(chunks, container.chunk_shapes(header), strict=True):
    payload = bits.packed_bytes(shape, bits.widths(sizes)) + (
      0 if scales is None else scales.nbytes
    )
    assert codes.shape == shape
    packed += payload + (6 if payload < 128 else 7)  # Length, coder, checksum.
  assert len(file) <= packed


def test_golden_bytes():
  header = container.Header(
    codec="toy",
    weights_hash=bytes(range(16)),
    sample_rate=8000,
    channels=1,
    batch=1,
    num_samples=39,
    hop_length=10,
    num_frames=4,
    frames_per_chunk=2,
    segment_frames=2,
    codebook_sizes=(4, 4, 1),
  )
  chunks = [
    (np.array([[[1, 2, 0], [3, 0, 0]]], np.int32), np.array([[0.5]], np.float32)),
    (np.array([[[0, 0, 0], [3, 3, 0]]], np.int32), np.array([[2.0]], np.float32)),
  ]
  golden = (
    "8a4a5843 01 23"  # Magic, version 1, 35 bytes of fields.
    "03 746f79"  # "toy".
    "000102030405060708090a0b0c0d0e0f"  # Hash of the weights.
    "01"  # float32.
    "c03e 01 01 27 0a 04 02 02"  # 8000 Hz (0x40 + 0x3e * 128), 1, 1, 39, 10, 4, 2, 2.
    "02 04 02 01 01"  # Two runs: 4 entries twice, 1 entry once.
    "220ba4de"  # CRC32 of all before.
    "05 00 0000003f 6c 6b7d6a90"  # 5 bytes, packed: 0.5, then 01 10 11 00.
    "05 00 00000040 0f 58f38d55"  # 5 bytes, packed: 2.0, then 00 00 11 11.
  )
  file = make_file(header, chunks)
  assert file == bytes.fromhex(golden)
  assert_same_chunks(container.read_chunks(bytes.fromhex(golden)), chunks)


def test_framing_is_small():
  header = make_header(codec="speech-24khz", codebook_sizes=(1024,) * 12, num_samples=240_000,
                       num_frames=750, frames_per_chunk=500, segment_frames=0, batch=1)  # fmt: skip
  chunks = make_chunks(header)
  assert len(container.header_bytes(header)) <= 64
  packed = sum(bits.packed_bytes(codes.shape, (10,) * 12) for codes, _ in chunks)
  overhead = len(make_file(header, chunks)) - packed - len(container.header_bytes(header))
  assert overhead == 7 * len(chunks)


def test_bitrate_and_chunk_shapes():
  header = make_header(sample_rate=24_000, codebook_sizes=(1024,) * 8)
  assert header.bitrate == 6000
  assert list(container.chunk_shapes(header)) == [(2, 10, 8), (2, 10, 8), (2, 3, 8)]


def test_empty_signal():
  header = make_header(num_samples=0, num_frames=0)
  file = make_file(header, [])
  assert container.read_header(file) == header
  assert list(container.read_chunks(file)) == []
  with pytest.raises(CodecError, match="too many"):
    list(container.read_chunks(file + b"\0"))


def test_chunks_are_read_lazily():
  header = make_header()
  chunks = make_chunks(header)
  file = bytearray(make_file(header, chunks))
  file[-1] ^= 1
  reader = container.read_chunks(file)
  assert_same_chunks([next(reader), next(reader)], chunks[:2])
  with pytest.raises(CodecError, match=r"^chunk 2 is damaged \(checksum\)$"):
    next(reader)


def uneven_file_with_prior():
  header = make_header(num_frames=200, num_samples=1, frames_per_chunk=100)
  prior = np.zeros((4, 100), np.int32)
  for row, size in zip(prior, header.codebook_sizes, strict=True):
    row[:size] = 1000 // np.arange(1, size + 1)
  return make_file(header, make_chunks(header, power=6), prior), prior


def test_another_prior_is_found():
  file, prior = uneven_file_with_prior()
  read_all(file, prior)
  read_all(file, prior.astype(np.int64))
  other = prior.copy()
  other[0, 0] += 1
  with pytest.raises(CodecError, match="prior is another"):
    read_all(file, other)
  with pytest.raises(CodecError, match="needs the prior"):
    read_all(file)
  with pytest.raises(ValueError):
    container.read_chunks(file, prior[:3])


def test_every_flipped_bit_is_found():
  header = make_header(num_frames=23)
  files = [(make_file(header, make_chunks(header)), None), uneven_file_with_prior()]
  for file, prior in files:
    for bit in range(8 * len(file)):
      bad = bytearray(file)
      bad[bit // 8] ^= 1 << bit % 8
      with pytest.raises(CodecError):
        read_all(bad, prior)


def test_every_truncation_is_found():
  file = make_file(make_header(), make_chunks(make_header()))
  for length in range(len(file)):
    with pytest.raises(CodecError, match=r"truncated|not a \.jxc file"):
      read_all(file[:length])


def test_chunks_of_other_places_and_files_are_found():
  header = make_header(num_frames=20, num_samples=6000)
  records = [container.encode_chunk(header, i, *c) for i, c in enumerate(make_chunks(header))]
  with pytest.raises(CodecError, match="chunk 0 is damaged"):
    read_all(container.write(header, records[::-1]))
  other = dataclasses.replace(header, num_samples=6001)
  with pytest.raises(CodecError, match="chunk 0 is damaged"):
    read_all(container.write(other, records))


def mutate(file, rng):
  """A file that differs from `file`, in one of the ways that files go wrong."""
  bad, at = bytearray(file), int(rng.integers(len(file)))
  match rng.integers(6):
    case 0:  # A burst of flipped bits.
      for _ in range(rng.integers(1, 6)):
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
    case 1:
      del bad[at:]
    case 2:
      bad[at:at] = rng.bytes(rng.integers(1, 20))
    case 3:
      del bad[at : at + rng.integers(1, 20)]
    case 4:  # Random bytes, with a valid start or without.
      keep = int(rng.integers(0, 60))
      bad = bytearray(file[:keep] + rng.bytes(rng.integers(1, 200)))
    case 5:  # A part moved somewhere else.
      part = bad[at : at + 30]
      del bad[at : at + 30]
      to = int(rng.integers(len(bad) + 1))
      bad[to:to] = part
  return bytes(bad)


def test_mutations_raise_soon_and_within_memory():
  header, rng = make_header(), np.random.default_rng(0)
  files = [(make_file(header, make_chunks(header)), None), uneven_file_with_prior()]
  tracemalloc.start()
  try:
    for index in range(2000):
      file, prior = files[index % 2]
      bad = mutate(file, rng)
      if bad == file:
        continue
      start = time.perf_counter()
      with pytest.raises(CodecError) as raised:
        read_all(bad, prior)
      assert time.perf_counter() - start < 1
      assert "\n" not in str(raised.value)
    assert tracemalloc.get_traced_memory()[1] < 200e6
  finally:
    tracemalloc.stop()


FIELDS = (
  "sample_rate", "channels", "batch", "num_samples", "hop_length", "num_frames",
  "frames_per_chunk", "segment_frames",
)  # fmt: skip


def varint(value):
  out = []
  while value > 127:
    out.append(value % 128 + 128)
    value //= 128
  return bytes([*out, value])


def signed_header(runs=((8, 2), (100, 1)), name=b"test", dtype=1, tail=b"", **changes):
  """A header with any numbers, legal or not, and a valid checksum, made from the document."""
  values = {field: getattr(make_header(), field) for field in FIELDS} | changes
  body = varint(len(name)) + name + bytes(16) + bytes([dtype])
  body += b"".join(varint(values[field]) for field in FIELDS) + varint(len(runs))
  body += b"".join(varint(size) + varint(count) for size, count in runs) + tail
  return sign(b"\x8aJXC\x01" + varint(len(body)) + body)


def sign(data, seed=0):
  return data + zlib.crc32(data, seed).to_bytes(4, "little")


def signed_record(head, index, coder, payload):
  seed = zlib.crc32(index.to_bytes(8, "little"), int.from_bytes(head[-4:], "little"))
  return sign(varint(len(payload)) + bytes([coder]) + payload, seed)


@pytest.mark.parametrize(
  "changes",
  [
    {"num_frames": 2**40, "frames_per_chunk": 1},
    {"num_frames": 2**40 + 1},
    {"num_frames": 2**63},
    {"num_frames": 2**64},
    {"num_frames": 2**40, "frames_per_chunk": 2**22},
    {"num_frames": 2**22, "frames_per_chunk": 2**22, "segment_frames": 0},
    {"frames_per_chunk": 2**62},
    {"frames_per_chunk": 0},
    {"segment_frames": 3},
    {"segment_frames": 2**30},
    {"num_samples": 2**48},
    {"num_samples": 320 * 23 + 1},
    {"sample_rate": 0},
    {"sample_rate": 2**24 + 1},
    {"channels": 65},
    {"batch": 0},
    {"batch": 2**16 + 1},
    {"hop_length": 0},
    {"runs": ()},
    {"runs": ((2**40, 1),)},
    {"runs": ((65536, 17),)},
    {"runs": ((8, 2**40),)},
    {"runs": ((8, 0),)},
    {"runs": ((0, 1),)},
    {"runs": ((1, 600), (2, 600))},
    {"name": b""},
    {"name": b"x" * 256},
    {"name": b"\xff"},
    {"name": b"two\nlines"},
    {"dtype": 2},
  ],
  ids=str,
)
def test_signed_hostile_headers_raise_at_once(changes):
  file = signed_header(**changes) + bytes(100)
  tracemalloc.start()
  try:
    start = time.perf_counter()
    with pytest.raises(CodecError) as raised:
      read_all(file)
    assert time.perf_counter() - start < 0.2
    assert tracemalloc.get_traced_memory()[1] < 1e6
  finally:
    tracemalloc.stop()
  assert "\n" not in str(raised.value)


@pytest.mark.parametrize("coder", [0, 1, 2, 3])
def test_signed_random_chunks_raise_or_are_legal(coder):
  rng = np.random.default_rng(coder)
  head = signed_header(num_frames=10, num_samples=1, runs=((5, 1), (1000, 1), (1, 1)))
  prior = np.array([[1] * 5 + [0] * 995, [1] * 1000, [1] + [0] * 999])
  messages = []
  for _ in range(200):
    payload = np.float32([1, 0, 2, 3]).tobytes() + rng.bytes(rng.choice([0, 4, 8, 32, 33, 40]))
    record = signed_record(head, 0, coder, payload)
    if coder == 2:
      seed = zlib.crc32(bytes(8), int.from_bytes(head[-4:], "little"))
      record = sign(record[:-4], zlib.crc32(prior.astype("<i8").tobytes(), seed))
    try:
      read_all(head + record, prior)
    except CodecError as error:
      messages.append(str(error))
  # All past the checksum: it was the content.
  assert all(message.startswith("chunk 0: ") for message in messages)
  assert len(messages) > 100


@pytest.mark.parametrize("scale", [math.nan, math.inf, -1.0])
def test_signed_bad_scales_raise(scale):
  head = signed_header(num_frames=5, num_samples=1, batch=1)
  record = signed_record(head, 0, 0, np.float32([scale]).tobytes() + bytes(9))
  with pytest.raises(CodecError, match="scale"):
    read_all(head + record)


def test_largest_chunk_from_few_bytes_stays_within_memory():
  # Codes of single entries cost no bits, and many equal codes hardly any.
  frames, sizes = 2**21, (65536, 1024)
  shape = {"num_frames": frames, "frames_per_chunk": frames, "num_samples": 1, "batch": 1}
  head = signed_header(**shape, segment_frames=0, runs=((1, 2),))
  even_head = signed_header(**shape, segment_frames=0, runs=[(size, 1) for size in sizes])
  even = adaptive.encode(np.zeros((1, frames, 2), np.int32), sizes)
  assert len(even) < 1e5
  packed = bits.pack(np.zeros((1, frames, 2), np.int32), bits.widths(sizes))
  tracemalloc.start()
  try:
    read_all(head + signed_record(head, 0, 0, b""))
    for coder, coded in [(1, even), (0, packed)]:
      start = time.perf_counter()
      read_all(even_head + signed_record(even_head, 0, coder, coded))
      assert time.perf_counter() - start < 3  # Under one on a machine with nothing else to do.
    assert tracemalloc.get_traced_memory()[1] < 200e6
  finally:
    tracemalloc.stop()


def test_later_fields_of_the_header_are_skipped():
  assert read_all(signed_header(num_frames=0, num_samples=0, tail=b"later")).codec == "test"


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"", "not a .jxc file"),
    (b"RIFF....WAVE", "not a .jxc file"),
    (b"\x8aJX", "truncated: no whole header"),
    (b"\x8aJXC\x07", "version 7 is newer than this reader (1)"),
    (b"\x8aJXC\x00", "version 0 does not exist"),
    (b"\x8aJXC\x01\xff", "truncated: header ends within a number"),
    (b"\x8aJXC\x01" + b"\xff" * 11, "header is damaged (a number of more than 64 bits)"),
    (b"\x8aJXC\x01\x80\x00", "header is damaged (a number is not in its shortest form)"),
    (b"\x8aJXC\x01\x80\x80\x80\x01", "header is damaged (a length of 2097152 bytes)"),
    (b"\x8aJXC\x01\x05", "truncated: no whole header"),
    (b"\x8aJXC\x01\x01\x00\x00\x00\x00\x00", "header is damaged (checksum)"),
    (sign(b"\x8aJXC\x01\x01\x09"), "header is not valid: it ends within a field"),
  ],
)
def test_messages_name_what_is_wrong(data, message):
  with pytest.raises(CodecError) as raised:
    container.read_header(data)
  assert str(raised.value) == message


@pytest.mark.parametrize(
  "changes",
  [
    {"codec": ""},
    {"codec": "é" * 128},
    {"weights_hash": b"short"},
    {"dtype": "float64"},
    {"channels": 0},
    {"num_samples": 320 * 23 + 1},
    {"codebook_sizes": ()},
    {"codebook_sizes": (65537,)},
    {"segment_frames": 3},
    {"frames_per_chunk": 2**20, "num_frames": 2**20},
  ],
)
def test_header_mistakes(changes):
  with pytest.raises(ValueError):
    make_header(**changes)


def test_chunk_mistakes():
  header = make_header()
  codes, scales = make_chunks(header)[0]
  for bad_codes, bad_scales in [
    (codes[:, 1:], scales),
    (codes + 100, scales),
    (codes - 1, scales),
    (codes.astype(np.float32), scales),
    (codes, None),
    (codes, scales[:, :1]),
    (codes, -scales),
    (codes, scales * np.float32(np.nan)),
  ]:
    with pytest.raises(ValueError):
      container.encode_chunk(header, 0, bad_codes, bad_scales)
  with pytest.raises(ValueError):
    container.encode_chunk(header, 3, codes, scales)
  with pytest.raises(ValueError):
    container.write(header, [])
