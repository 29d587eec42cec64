"""The .jxc file: exact round trips, golden bytes, small framing, and no harm from any bytes."""

import dataclasses
import itertools
import math
import time
import tracemalloc
import zlib

import hostile
import numpy as np
import pytest
from hostile import mutate
from hypothesis import given, settings, strategies as st

from jaxcodec.entropy import adaptive, bits, container
from jaxcodec.errors import CodecError


def make_stream(**changes):
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
  return container.Stream(**fields | changes)


def make_header(**changes):
  return container.Header(streams=(make_stream(**changes),))


def make_chunks(stream, seed=0, power=1):
  """Random codes (the larger `power`, the more uneven) and scales of every chunk."""
  rng, chunks = np.random.default_rng(seed), []
  for shape in container.chunk_shapes(stream):
    codes = (rng.random(shape) ** power * stream.codebook_sizes).astype(np.int32)
    scales = None
    if stream.segment_frames:
      segments = -(-shape[1] // stream.segment_frames)
      scales = rng.random((shape[0], segments), np.float32)
    chunks.append((codes, scales))
  return chunks


def with_prior(stream, prior):
  return dataclasses.replace(stream, prior_crc=adaptive.prior_crc(prior, stream.codebook_sizes))


def make_file(stream, chunks, prior=None):
  if prior is not None:
    stream = with_prior(stream, prior)
  return make_files([stream], [chunks], [prior])


def make_files(streams, chunks, priors=None, metadata=None):
  """A file of several streams."""
  header = container.Header(streams=tuple(streams), metadata=metadata or {})
  records = [
    container.encode_chunk(header, index, codes, scales, prior, stream=number)
    for number, prior in enumerate(priors or [None] * len(streams))
    for index, (codes, scales) in enumerate(chunks[number])
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
  for number, stream in enumerate(header.streams):
    count = 0
    for codes, scales in container.read_chunks(data, prior, stream=number):
      assert codes.shape == container.chunk_shape(stream, count)
      assert codes.min() >= 0
      assert (codes.max(axis=(0, 1)) < stream.codebook_sizes).all()
      assert scales is None or (np.isfinite(scales).all() and (scales >= 0).all())
      count += 1
    assert count == stream.num_chunks
  return header.streams[0]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_round_trip_and_never_larger_than_packed(data):
  draw = data.draw
  sizes = tuple(draw(st.lists(st.integers(1, 2000), min_size=1, max_size=4)))
  num_frames, segment = draw(st.integers(0, 60)), draw(st.integers(0, 7))
  stream = make_stream(
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
  chunks = make_chunks(stream, power=draw(st.sampled_from([1, 5])))
  file = make_file(stream, chunks, prior)
  if prior is not None:
    stream = with_prior(stream, prior)
  header = container.Header(streams=(stream,))
  assert container.read_header(file) == header
  assert container.check(file) == header
  assert_same_chunks(container.read_chunks(file, prior), chunks)
  packed, largest = len(container.header_bytes(header)) + 5, 0  # Width and checksum of the index.
  for (codes, scales), shape in zip(chunks, container.chunk_shapes(stream), strict=True):
    payload = bits.packed_bytes(shape, bits.widths(sizes)) + (
      0 if scales is None else scales.nbytes
    )
    assert codes.shape == shape
    packed += payload + 5  # Coder, checksum.
    largest = max(largest, payload)
  packed += len(chunks) * max(1, -(-largest.bit_length() // 8))  # Lengths.
  assert len(file) <= packed


def test_golden_bytes():
  stream = container.Stream(
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
    metadata={"title": "A"},
  )
  chunks = [
    (np.array([[[1, 2, 0], [3, 0, 0]]], np.int32), np.array([[0.5]], np.float32)),
    (np.array([[[0, 0, 0], [3, 3, 0]]], np.int32), np.array([[2.0]], np.float32)),
  ]
  golden = (
    "8a4a5843 01 37"  # Magic, version 1, 55 bytes of fields.
    "01 2d"  # One stream, described in 45 bytes.
    "01 03 746f79"  # Sound, "toy".
    "000102030405060708090a0b0c0d0e0f"  # Hash of the weights.
    "01"  # float32.
    "c03e 01 01 27 0a 04 02 02"  # 8000 Hz (0x40 + 0x3e * 128), 1, 1, 39, 10, 4, 2, 2.
    "02 04 02 01 01"  # Two runs: 4 entries twice, 1 entry once.
    "02 07 05 7469746c65 41"  # A field of the stream, 7 bytes: "title", "A".
    "02 06 04 796561 72 39"  # A field of the file, 6 bytes: "year", "9".
    "97715f4f"  # 716af5212 of all before.
    "01 05 05 071932c6"  # Lengths of one byte: 5, 5; checksum.
    "00 0000003f 6c 716af521"  # Packed: 0.5, then 01 10 11 00.
    "00 00000040 0f dcdee6c0"  # Packed: 2.0, then 00 00 11 11.
  )
  file = make_files([stream], [chunks], metadata={"year": "9"})
  assert file == bytes.fromhex(golden)
  assert_same_chunks(container.read_chunks(bytes.fromhex(golden)), chunks)


def test_framing_is_small():
  stream = make_stream(codec="speech-24khz", codebook_sizes=(1024,) * 12, num_samples=240_000,
                       num_frames=750, frames_per_chunk=500, segment_frames=0, batch=1)  # fmt: skip
  chunks, header = make_chunks(stream), container.Header(streams=(stream,))
  assert len(container.header_bytes(header)) <= 64
  packed = sum(bits.packed_bytes(codes.shape, (10,) * 12) for codes, _ in chunks)
  overhead = len(make_file(stream, chunks)) - packed - len(container.header_bytes(header))
  assert overhead == 5 + 7 * len(chunks)


def test_bitrate_and_chunk_shapes():
  stream = make_stream(sample_rate=24_000, codebook_sizes=(1024,) * 8)
  assert stream.bitrate == 6000
  assert list(container.chunk_shapes(stream)) == [(2, 10, 8), (2, 10, 8), (2, 3, 8)]


def test_empty_signal():
  stream = make_stream(num_samples=0, num_frames=0)
  file = make_file(stream, [])
  assert container.read_header(file) == container.Header(streams=(stream,))
  assert list(container.read_chunks(file)) == []
  with pytest.raises(CodecError, match="too many"):
    list(container.read_chunks(file + b"\0"))


def test_chunks_are_read_lazily():
  stream = make_stream()
  chunks = make_chunks(stream)
  file = bytearray(make_file(stream, chunks))
  file[-1] ^= 1
  reader = container.read_chunks(file)
  assert_same_chunks([next(reader), next(reader)], chunks[:2])
  with pytest.raises(CodecError, match=r"^chunk 2 is damaged \(checksum\)$"):
    next(reader)


def test_any_chunk_is_read_without_the_others():
  streams = [make_stream(), make_stream(codebook_sizes=(5, 6), segment_frames=0, num_frames=60)]
  chunks = [make_chunks(stream, seed) for seed, stream in enumerate(streams)]
  file = make_files(streams, chunks)
  damaged = bytearray(file)
  starts = container.read_layout(file).starts
  for number, index in itertools.product(range(2), range(3)):
    if (number, index) != (1, 2):
      damaged[starts[number][index] + 2] ^= 1
  with pytest.raises(CodecError, match=r"^chunk 0 of stream 0 is damaged \(checksum\)$"):
    container.check(damaged)
  for first, last in ((2, 3), (4, None), (3, 6)):
    got = container.read_chunks(damaged, stream=1, first=first, last=last)
    assert_same_chunks(got, chunks[1][first:last])
  with pytest.raises(CodecError, match="chunk 1 of stream 1 is damaged"):
    list(container.read_chunks(damaged, stream=1, first=1))
  for number in (-1, 2):
    with pytest.raises(ValueError, match=f"no stream {number}"):
      container.read_chunks(file, stream=number)


def test_joined_files_hold_the_chunks_and_the_metadata_of_each():
  file, prior = uneven_file_with_prior()
  streams = [make_stream(metadata={"title": "own"}), make_stream(num_frames=3, num_samples=9)]
  chunks = [make_chunks(stream, seed) for seed, stream in enumerate(streams)]
  pair = make_files(streams, chunks, metadata={"title": "all", "year": "1"})
  joined = container.join([file, pair], {"title": "both"})
  header = container.check(joined)
  assert header.metadata == {"title": "both"}
  found = [stream.metadata for stream in header.streams]
  assert found == [{}, {"title": "own", "year": "1"}, {"title": "all", "year": "1"}]
  assert_same_chunks(container.read_chunks(joined, prior), list(container.read_chunks(file, prior)))
  for number in range(2):
    assert_same_chunks(container.read_chunks(joined, stream=number + 1), chunks[number])
  bad = bytearray(pair)
  bad[-5] ^= 1
  with pytest.raises(CodecError, match="chunk 0 of stream 1 is damaged"):
    container.join([file, bad])
  with pytest.raises(ValueError, match="streams"):
    container.join([])
  long = make_files(streams, chunks, metadata={"notes": "a" * 4096})
  with pytest.raises(ValueError, match="65536"):
    container.join([long] * 8)


def uneven_file_with_prior():
  stream = make_stream(num_frames=200, num_samples=1, frames_per_chunk=100)
  prior = np.zeros((4, 100), np.int32)
  for row, size in zip(prior, stream.codebook_sizes, strict=True):
    row[:size] = 1000 // np.arange(1, size + 1)
  return make_file(stream, make_chunks(stream, power=6), prior), prior


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
  stream = container.read_header(file).streams[0]
  codes, scales = make_chunks(stream)[0]
  with pytest.raises(ValueError, match="prior_crc"):
    container.encode_chunk(container.Header(streams=(stream,)), 0, codes, scales, other)


@pytest.mark.slow
def test_every_flipped_bit_is_found():
  stream = make_stream(num_frames=23, metadata={"title": "A talk"})
  several = make_files([stream] * 2, [make_chunks(stream)] * 2, metadata={"year": "2026"})
  files = [(make_file(stream, make_chunks(stream)), None), uneven_file_with_prior()]
  for file, prior in [*files, (several, None)]:
    for bit in range(8 * len(file)):
      bad = bytearray(file)
      bad[bit // 8] ^= 1 << bit % 8
      with pytest.raises(CodecError):
        container.check(bad) if file is several else read_all(bad, prior)


def test_every_truncation_is_found():
  file = make_file(make_stream(), make_chunks(make_stream()))
  for length in range(len(file)):
    with pytest.raises(CodecError, match=r"truncated|not a \.jxc file"):
      read_all(file[:length])


def test_chunks_of_other_places_and_files_are_found():
  stream = make_stream(num_frames=20, num_samples=6000)
  header, chunks = container.Header(streams=(stream,) * 2), make_chunks(stream)
  records = [
    container.encode_chunk(header, i, *c, stream=s) for s in range(2) for i, c in enumerate(chunks)
  ]
  read_all(container.write(header, records))
  with pytest.raises(CodecError, match="chunk 0 of stream 0 is damaged"):
    read_all(container.write(header, [records[1], records[0], *records[2:]]))
  with pytest.raises(CodecError, match="chunk 0 of stream 0 is damaged"):
    read_all(container.write(header, records[2:] + records[:2]))
  for other in (
    dataclasses.replace(header, streams=(dataclasses.replace(stream, num_samples=6001), stream)),
    dataclasses.replace(header, metadata={"title": "another"}),
  ):
    with pytest.raises(CodecError, match="chunk 0 of stream 0 is damaged"):
      read_all(container.write(other, records))


def refusal(file, prior):
  with pytest.raises(CodecError) as raised:
    read_all(file, prior)
  return str(raised.value)


def test_mutations_raise_soon_and_within_memory():
  stream, rng = make_stream(), np.random.default_rng(0)
  files = [(make_file(stream, make_chunks(stream)), None), uneven_file_with_prior()]
  tracemalloc.start()
  try:
    for index in range(2000):
      file, prior = files[index % 2]
      bad = mutate(file, rng)
      if bad == file:
        continue
      assert "\n" not in hostile.timely(refusal, bad, prior)
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


def field(tag, content):
  return varint(tag) + varint(len(content)) + content


def pair(key, value):
  return field(2, varint(len(key)) + key + value)


def signed_header(
  runs=((8, 2), (100, 1)), name=b"test", kind=1, dtype=1, tail=b"", end=b"", streams=1, **changes
):
  """A header with any numbers, legal or not, and a valid checksum, made from the document."""
  values = {name: getattr(make_stream(), name) for name in FIELDS} | changes
  body = varint(kind) + varint(len(name)) + name + bytes(16) + bytes([dtype])
  body += b"".join(varint(values[name]) for name in FIELDS) + varint(len(runs))
  body += b"".join(varint(size) + varint(count) for size, count in runs) + tail
  body = varint(streams) + varint(len(body)) + body + end
  return sign(b"\x8aJXC\x01" + varint(len(body)) + body)


def sign(data, seed=0):
  return data + zlib.crc32(data, seed).to_bytes(4, "little")


def signed_file(head, *records):
  """A file of records `(coder, payload)` of the first stream, every checksum valid."""
  seed = int.from_bytes(head[-4:], "little")
  lengths = b"".join(len(payload).to_bytes(4, "little") for _, payload in records)
  data = head + sign(b"\x04" + lengths, seed)
  for index, (coder, payload) in enumerate(records):
    place = zlib.crc32(bytes(4) + index.to_bytes(8, "little"), seed)
    data += sign(bytes([coder]) + payload, place)
  return data


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
    {"name": b"\xe2\x80\xaetxt"},
    {"dtype": 2},
    {"kind": 2},
    {"streams": 0},
    {"streams": 2},
    {"streams": 2**40},
    {"tail": field(1, b"abc")},
    {"tail": field(1, b"abcd") * 2},
    {"tail": field(3, b"")},
    {"tail": field(2**40 + 1, b"")},
    {"tail": b"\x04\x05late"},
    {"tail": pair(b"title", b"one") + pair(b"title", b"two")},
    {"tail": pair(b"Title", b"")},
    {"tail": pair(b"../../etc/passwd", b"")},
    {"tail": pair(b"", b"")},
    {"tail": pair(b"title", b"\x1b[2J")},
    {"tail": pair(b"title", b"\xff")},
    {"tail": pair(b"title", b"x" * 4097)},
    {"tail": pair(b"source-sha256", b"0" * 63)},
    {"tail": field(2, b"\x09title")},
    {"tail": b"".join(pair(b"%d" % i, b"") for i in range(65))},
    {"end": field(1, b"abcd")},
    {"end": pair(b"title", b"two\nlines")},
    {"end": b"\x02"},
  ],
  ids=str,
)
def test_signed_hostile_headers_raise_at_once(changes):
  head = signed_header(**changes)
  file = signed_file(head, (0, bytes(100)))
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


@pytest.mark.parametrize("coder", [0, 1, 2, 255])
def test_signed_random_chunks_raise_or_are_legal(coder):
  rng = np.random.default_rng(coder)
  prior = np.array([[1] * 5 + [0] * 995, [1] * 1000, [1] + [0] * 999])
  crc = zlib.crc32(prior.astype("<i8").tobytes()).to_bytes(4, "little")
  runs = ((5, 1), (1000, 1), (1, 1))
  head = signed_header(num_frames=10, num_samples=1, runs=runs, tail=field(1, crc))
  messages = []
  for _ in range(200):
    payload = np.float32([1, 0, 2, 3]).tobytes() + rng.bytes(rng.choice([0, 4, 8, 31, 32, 33]))
    try:
      read_all(signed_file(head, (coder, payload)), prior)
    except CodecError as error:
      messages.append(str(error))
  # All past the checksums: it was the content, or more of it than packed codes take.
  assert all(message.startswith(("chunk 0: ", "index is not valid: ")) for message in messages)
  assert len(messages) > 100


@pytest.mark.parametrize("scale", [math.nan, math.inf, -1.0])
def test_signed_bad_scales_raise(scale):
  head = signed_header(num_frames=5, num_samples=1, batch=1)
  with pytest.raises(CodecError, match="scale"):
    read_all(signed_file(head, (0, np.float32([scale]).tobytes() + bytes(9))))


def test_a_chunk_needs_the_prior_that_the_header_names():
  head = signed_header(num_frames=5, num_samples=1, batch=1, segment_frames=0)
  with pytest.raises(CodecError, match="with a prior, and the header names none"):
    read_all(signed_file(head, (2, bytes(4))))


@pytest.mark.parametrize("width", [0, 5, 255])
def test_an_index_of_impossible_lengths_is_refused(width):
  head = signed_header(num_frames=5, num_samples=1, batch=1, segment_frames=0)
  seed = int.from_bytes(head[-4:], "little")
  with pytest.raises(CodecError, match=r"index is not valid|truncated"):
    read_all(head + sign(bytes([width]) + bytes(width), seed) + bytes(14))


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
    read_all(signed_file(head, (0, b"")))
    for coder, coded in [(1, even), (0, packed)]:
      start = time.perf_counter()
      read_all(signed_file(even_head, (coder, coded)))
      assert time.perf_counter() - start < 3  # Under one on a machine with nothing else to do.
    assert tracemalloc.get_traced_memory()[1] < 200e6
  finally:
    tracemalloc.stop()


def test_later_fields_of_the_header_are_skipped_if_they_are_even():
  empty = {"num_frames": 0, "num_samples": 0}
  for place in ("tail", "end"):
    later = field(4, b"later") + pair(b"title", b"found") + field(2**40, b"")
    file = signed_file(signed_header(**empty, **{place: later}))
    assert read_all(file).codec == "test"
    header = container.read_header(file)
    assert (header.metadata | header.streams[0].metadata)["title"] == "found"
    file = signed_file(signed_header(**empty, **{place: field(5, b"")}))
    with pytest.raises(CodecError, match=r"^the file needs a newer reader: field 5 is unknown"):
      read_all(file)
  with pytest.raises(CodecError, match=r"^the file needs a newer reader: kind of signal 9"):
    read_all(signed_header(kind=9))


@pytest.mark.parametrize(
  "text", ["é", "日本語", "\u0645\u06cc\u200c", "👩\u200d🚀", "", "a" * 4096]
)
def test_metadata_come_back_as_they_went(text):
  stream = make_stream(num_frames=0, num_samples=0, metadata={"title": text, "x-y_z.0": "1"})
  header = container.Header(streams=(stream,), metadata={"title": text})
  assert container.read_header(container.write(header, [])) == header


@pytest.mark.parametrize(
  "metadata",
  [
    {"": "x"},
    {"A": "x"},
    {"two words": "x"},
    {"k" * 65: "x"},
    {"title": "a" * 4097},
    {"title": "\u202egnp.exe"},
    {"title": "\ud800"},
    {"title": "\x00"},
    {"source-sha256": "A" * 64},
    {str(i): "" for i in range(65)},
  ],
)
def test_metadata_mistakes(metadata):
  with pytest.raises(ValueError, match="metadata"):
    make_stream(metadata=metadata)
  with pytest.raises(ValueError, match="metadata"):
    container.Header(streams=(make_stream(),), metadata=metadata)


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
    (sign(b"\x8aJXC\x01\x02\x01\x09"), "header is not valid: it ends within a field"),
    (sign(b"\x8aJXC\x01\x01\x09"), "truncated: header ends within a number"),
    (sign(b"\x8aJXC\x01\x01\x00"), "header is not valid: a file has 1 to 1024 streams, not 0"),
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
    make_stream(**changes)


def test_chunk_mistakes():
  header = make_header()
  codes, scales = make_chunks(header.streams[0])[0]
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
