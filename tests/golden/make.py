"""Writes a golden file that is not there yet, and what it decodes to, into this directory.

Command: python tests/golden/make.py

What is there stays: these files are frozen, and so is what they decode to.
"""

import hashlib
import json
import pathlib
import struct
import zlib

import numpy as np

from jaxcodec.entropy import adaptive, container
from jaxcodec.entropy.container import Header, Stream

HERE = pathlib.Path(__file__).parent


def stream(**changes) -> Stream:
  fields = {
    "codec": "golden",
    "weights_hash": bytes(range(16)),
    "sample_rate": 16_000,
    "channels": 1,
    "batch": 1,
    "num_samples": 320 * 30 - 5,
    "hop_length": 320,
    "num_frames": 30,
    "frames_per_chunk": 20,
    "codebook_sizes": (16, 100, 1, 7),
  }
  return Stream(**fields | changes)


def chunks(stream: Stream, power: float, seed: int):
  """Random codes, the larger `power` the more uneven, and scales."""
  rng = np.random.default_rng(seed)
  for shape in container.chunk_shapes(stream):
    codes = (rng.random(shape) ** power * stream.codebook_sizes).astype(np.int32)
    scales = None
    if stream.segment_frames:
      scales = rng.random((shape[0], -(-shape[1] // stream.segment_frames)), np.float32)
    yield codes, scales


def file(streams, parts, priors, metadata=None) -> bytes:
  header = Header(streams=tuple(streams), metadata=metadata or {})
  records = [
    container.encode_chunk(header, index, *part, priors[number], stream=number)
    for number in range(len(streams))
    for index, part in enumerate(parts[number])
  ]
  return container.write(header, records)


def uneven_prior(sizes) -> np.ndarray:
  prior = np.zeros((len(sizes), max(sizes)), np.int32)
  for row, size in zip(prior, sizes, strict=True):
    row[:size] = 1000 // np.arange(1, size + 1)
  return prior


def packed_stereo():
  described = stream(channels=2, segment_frames=5, codebook_sizes=(1000, 1024, 3))
  return [described], [list(chunks(described, 1, 0))], [None], {"title": "Zwei Kanäle"}


def adaptive_batch():
  described = stream(batch=2, num_frames=90, frames_per_chunk=60)
  return [described], [list(chunks(described, 6, 1))], [None], {}


def prior_mono():
  sizes = (16, 100, 1, 7)
  prior = uneven_prior(sizes)
  described = stream(num_frames=70, frames_per_chunk=70, prior_crc=adaptive.prior_crc(prior, sizes))
  return [described], [list(chunks(described, 5, 2))], [prior], {}


def several():
  made = [packed_stereo(), prior_mono(), adaptive_batch()]
  streams = [one[0][0] for one in made]
  empty = stream(codec="nothing", num_samples=0, num_frames=0, metadata={"title": "無"})
  about = {"title": "Several", "source-sha256": "0123456789abcdef" * 4, "x.free": ""}
  return (
    [*streams, empty],
    [*(one[1][0] for one in made), []],
    [*(one[2][0] for one in made), None],
    about,
  )


def grown() -> bytes:
  """A file as a later writer may make it: fields of even tags that nobody knows yet."""
  described = stream(num_frames=1, num_samples=1, codebook_sizes=(256,))
  body = container.header_bytes(Header(streams=(described,)))[6:-4]
  later = b"\x64\x05later"
  body = b"\x01" + bytes([body[1] + len(later)]) + body[2:] + later + later
  data = b"\x8aJXC\x01" + bytes([len(body)]) + body
  data += struct.pack("<I", zlib.crc32(data))
  seed = zlib.crc32(data[:-4])
  index = b"\x02\x01\x00"  # Wider than need be.
  data += index + struct.pack("<I", zlib.crc32(index, seed))
  record = b"\x00\xab"
  return data + record + struct.pack("<I", zlib.crc32(record, zlib.crc32(bytes(12), seed)))


def speech(learned: bool = False) -> tuple[bytes, np.ndarray, np.ndarray]:
  """A third of a second by the bundled codec at its lowest rate, its codes and its prior."""
  import soundfile

  import jaxcodec
  from jaxcodec.demo import bundled_samples

  codec = jaxcodec.load("speech-16khz")
  wave, _ = soundfile.read(bundled_samples()[1], dtype="float32")
  x = wave[None, 16_000:21_000, None]
  data = jaxcodec.compress(codec, x, bitrate=1000, metadata={"title": "voice"}, learned=learned)
  return data, np.asarray(jaxcodec.encode(codec, x, bitrate=1000)), np.asarray(codec.prior)[:2]


def write(name: str, data: bytes, codes, scales, priors) -> None:
  path = HERE / f"{name}.jxc"
  if path.exists():
    print(f"{path.name} is there")
    return
  expected = {
    "sha256": hashlib.sha256(data).hexdigest(),
    "codes": [array.tolist() for array in codes],
    "scales": [array.tolist() for array in scales],
    "priors": [prior.tolist() for prior in priors if prior is not None],
  }
  path.write_bytes(data)
  path.with_suffix(".json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")
  print(f"{path.name}: {len(data)} bytes")


def joined(parts, described: Stream):
  """Codes [B, F, Q] and scales [B, S] of all of a stream's chunks."""
  none = np.zeros((described.batch, 0, len(described.codebook_sizes)), np.int32)
  codes = np.concatenate([none, *(codes for codes, _ in parts)], axis=1)
  scales = [scales for _, scales in parts if scales is not None]
  return codes, np.concatenate([np.zeros((described.batch, 0), np.float32), *scales], axis=1)


def main() -> None:
  for make in (packed_stereo, adaptive_batch, prior_mono, several):
    streams, parts, priors, metadata = make()
    both = [joined(p, s) for p, s in zip(parts, streams, strict=True)]
    data = file(streams, parts, priors, metadata)
    write(make.__name__, data, [c for c, _ in both], [s for _, s in both], priors)
  write("grown", grown(), [np.full((1, 1, 1), 0xAB)], [np.zeros((1, 0))], [])
  data, codes, prior = speech()
  write("speech", data, [codes], [np.zeros((1, 0))], [prior])
  data, codes, prior = speech(learned=True)
  write("learned", data, [codes], [np.zeros((1, 0))], [prior])


if __name__ == "__main__":
  main()
