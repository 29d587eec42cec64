"""A reader of .jxc files written from docs/bitstream.md alone: plain integers, nothing of ours.

It proves that the document is complete, and that files of today are read the same by another
program. `read(data, priors)` gives metadata and streams as plain values, or raises `Refused`.
"""

import math
import re
import struct
import zlib

SOUND_NUMBERS = (
  ("sample_rate", 1, 2**24),
  ("channels", 1, 64),
  ("batch", 1, 2**16),
  ("num_samples", 0, 2**48),
  ("hop_length", 1, 2**24),
  ("num_frames", 0, 2**40),
  ("frames_per_chunk", 1, 2**22),
  ("segment_frames", 0, 2**22),
)
HIDDEN = re.compile(
  "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
  "\ufeff\ufff9-\ufffb\ufffe\uffff]"
)


class Refused(Exception):
  """The file is none of version 1."""


def need(condition, what):
  if not condition:
    raise Refused(what)


class Bytes:
  """A cursor over bytes."""

  def __init__(self, data):
    self.data, self.at = data, 0

  def take(self, count):
    need(self.at + count <= len(self.data), "truncated")
    self.at += count
    return self.data[self.at - count : self.at]

  def number(self, size):
    return int.from_bytes(self.take(size), "little")

  def varint(self):
    value = shift = 0
    while True:
      byte = self.number(1)
      value |= (byte & 127) << shift
      if byte < 128:
        need(value < 2**64 and (byte or not shift), "a varint")
        return value
      shift += 7
      need(shift < 70, "a varint")

  def text(self, count):
    try:
      text = self.take(count).decode()
    except UnicodeDecodeError:
      raise Refused("not UTF-8") from None
    need(not HIDDEN.search(text), "a text that is not printable")
    return text

  def left(self):
    return len(self.data) - self.at


def read(data, priors=()):
  """Metadata, and a dict for each stream with its numbers, codes [B][F][Q] and scales [B][S].

  `priors` holds lists [Q][K]; which of them a stream needs is found by its checksum.
  """
  start = Bytes(data)
  need(start.take(4) == b"\x8aJXC" and start.number(1) == 1, "another format or version")
  size = start.varint()
  need(size <= 65536, "a long header")
  body = Bytes(start.take(size))
  seed = zlib.crc32(data[: start.at])
  need(start.number(4) == seed, "the header's checksum")
  count = body.varint()
  need(1 <= count <= 1024, "the number of streams")
  streams = [description(Bytes(body.take(body.varint()))) for _ in range(count)]
  metadata = fields(body, {}, False)

  index = Bytes(data)
  index.at = start.at
  width = index.number(1)
  need(1 <= width <= 4, "the index's width")
  lengths = []
  for stream in streams:
    chunks = -(-stream["num_frames"] // stream["frames_per_chunk"])
    need(chunks * 6 <= len(data), "more chunks than bytes")
    lengths.append([index.number(width) for _ in range(chunks)])
  crc = zlib.crc32(data[start.at : index.at], seed)
  need(index.number(4) == crc, "the index's checksum")

  for number, stream in enumerate(streams):
    stream["codes"] = [[] for _ in range(stream["batch"])]
    stream["scales"] = [[] for _ in range(stream["batch"])]
    for chunk, length in enumerate(lengths[number]):
      record = index.take(length + 1)
      place = zlib.crc32(struct.pack("<IQ", number, chunk), seed)
      need(index.number(4) == zlib.crc32(record, place), f"chunk {chunk}'s checksum")
      done = chunk * stream["frames_per_chunk"]
      frames = min(stream["frames_per_chunk"], stream["num_frames"] - done)
      read_chunk(stream, frames, record[0], Bytes(record[1:]), priors)
  need(not index.left(), "bytes after the end")
  return metadata, streams


def description(body):
  need(body.varint() == 1, "another kind")
  length = body.varint()
  need(1 <= length <= 255, "the codec's name")
  stream = {"codec": body.text(length), "weights_hash": body.take(16)}
  need(body.number(1) == 1, "another type")
  for name, low, high in SOUND_NUMBERS:
    stream[name] = body.varint()
    need(low <= stream[name] <= high, name)
  sizes = []
  for _ in range(body.varint()):
    size, times = body.varint(), body.varint()
    need(1 <= size <= 65536 and 1 <= times <= 1024 - len(sizes), "codebooks")
    sizes += [size] * times
  need(sizes and sum(sizes) <= 2**20, "codebooks")
  need(stream["num_samples"] <= stream["num_frames"] * stream["hop_length"], "samples")
  frames = min(stream["frames_per_chunk"], stream["num_frames"])
  need(stream["batch"] * frames * len(sizes) <= 2**22, "a chunk's codes")
  need(not stream["segment_frames"] or frames_fit(stream), "segments")
  stream["sizes"], stream["prior"] = sizes, None
  stream["metadata"] = fields(body, stream, True)
  return stream


def frames_fit(stream):
  return stream["frames_per_chunk"] % stream["segment_frames"] == 0


def fields(body, stream, in_stream):
  metadata = {}
  while body.left():
    tag = body.varint()
    field = Bytes(body.take(body.varint()))
    if tag == 1 and in_stream:
      need(stream["prior"] is None and field.left() == 4, "the prior's field")
      stream["prior"] = field.number(4)
    elif tag == 2:
      key = field.text(field.varint())
      need(re.fullmatch("[a-z0-9._-]{1,64}", key) and key not in metadata, "a key")
      need(field.left() <= 4096 and len(metadata) < 64, "metadata")
      metadata[key] = field.text(field.left())
      if key == "source-sha256":
        need(re.fullmatch("[0-9a-f]{64}", metadata[key]), "a hash")
    else:
      need(tag % 2 == 0, f"field {tag}")
  return metadata


def read_chunk(stream, frames, coder, payload, priors):
  batch, sizes = stream["batch"], stream["sizes"]
  widths = [math.ceil(math.log2(size)) for size in sizes]
  packed = (batch * frames * sum(widths) + 7) // 8
  segments = -(-frames // stream["segment_frames"]) if stream["segment_frames"] else 0
  for row in range(batch):
    for _ in range(segments):
      (scale,) = struct.unpack("<f", payload.take(4))
      need(math.isfinite(scale) and scale >= 0, "a scale")
      stream["scales"][row].append(scale)
  coded = payload.take(payload.left())
  need(len(coded) <= packed, "a payload longer than packed codes")
  if coder == 0:
    need(len(coded) == packed, "the length of packed codes")
    codes = unpacked(coded, batch, frames, widths)
  else:
    need(coder in (1, 2) and len(coded) < packed and len(coded) % 4 == 0, "the coder")
    prior = None
    if coder == 2:
      found = [p for p in priors if prior_crc(p) == stream["prior"]]
      need(found, "no such prior")
      prior = found[0]
    codes = adaptive(coded, batch, frames, sizes, prior)
  for row in range(batch):
    for frame in codes[row]:
      need(all(code < size for code, size in zip(frame, sizes, strict=True)), "a code")
    stream["codes"][row] += codes[row]


def prior_crc(prior):
  return zlib.crc32(b"".join(struct.pack("<q", count) for row in prior for count in row))


def unpacked(coded, batch, frames, widths):
  bits = "".join(f"{byte:08b}" for byte in coded)
  at, codes = 0, []
  for _ in range(batch):
    codes.append([])
    for _ in range(frames):
      frame = []
      for width in widths:
        frame.append(int("0" + bits[at : at + width], 2))
        at += width
      codes[-1].append(frame)
  need("1" not in bits[at:], "bits in the padding")
  return codes


def adaptive(coded, batch, frames, sizes, prior):
  words = list(struct.unpack(f"<{len(coded) // 4}I", coded))
  given, count = len(words), sum(size > 1 for size in sizes) * batch * frames
  words += [0, 0]
  x, used, extent = words[0] << 32 | words[1], 2, 2**64 - 1
  tables = [[1] * size for size in sizes]
  if prior:
    for table, row in zip(tables, prior, strict=True):
      for k in range(len(table)):
        table[k] += row[k] * 4096 // sum(row) if sum(row) else 0
  codes = [[[0] * len(sizes) for _ in range(frames)] for _ in range(batch)]
  start = 0
  while start < frames:
    stop = min(frames, start + max(8, start // 4))
    for q, table in enumerate(tables):
      if len(table) == 1:
        continue
      cdf, total, below = [], sum(table), 0
      for k, own in enumerate([*table, 0]):
        cdf.append(below * (2**24 - len(table)) // total + k)
        below += own
      for row in range(batch):
        for frame in range(start, stop):
          unit = extent >> 24
          place = x // unit
          need(place < 2**24, "impossible data")
          code = max(k for k in range(len(table)) if cdf[k] <= place)
          codes[row][frame][q] = code
          x -= unit * cdf[code]
          extent = unit * (cdf[code + 1] - cdf[code])
          if extent < 2**32:
            extent <<= 32
            x = x << 32 | (words[used] if used < len(words) else 0)
            used += 1
      for row in range(batch):
        for frame in range(start, stop):
          table[codes[row][frame][q]] += 4
    start = stop
  need(bool(given) == bool(count) and used >= given and x < 2**33 - 1, "words left over")
  return codes
