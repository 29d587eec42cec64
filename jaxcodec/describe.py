"""What a .jxc file says about itself, for people and for programs; needs no weights."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxcodec.entropy import container
from jaxcodec.entropy.container import Picture, Stream


def info(data: bytes, *, check: bool = False) -> dict[str, Any]:
  """A file's facts as JSON values.

  Args:
    data: a whole file.
    check: whether to look at the checksum of every chunk.

  Raises:
    CodecError: if header or index are damaged, the file is truncated, or a checksum does not hold.
  """
  layout = container.read_layout(data)
  if check:
    container.check(data)
  count, places = len(layout.starts), layout.starts
  # A bitrate is that of the file, so header and index are shared out.
  front = int(places[0][0])
  shares = [front // count + (number < front % count) for number in range(count)]
  streams = [
    _facts(stream, int(starts[-1] - starts[0]) + share)
    for stream, starts, share in zip(layout.header.streams, places, shares, strict=True)
  ]
  found = {"version": container.VERSION, "bytes": len(data), "metadata": {**layout.header.metadata}}
  return found | {"checked": check, "streams": streams}


def lines(facts: Mapping[str, Any]) -> Iterator[str]:
  """`facts` as lines for people."""
  yield from _lines({key: value for key, value in facts.items() if key != "streams"})
  for number, stream in enumerate(facts["streams"]):
    if len(facts["streams"]) > 1:
      yield f"\nstream {number}"
    yield from _lines(stream)


def _facts(stream: Stream | Picture, size: int) -> dict[str, Any]:
  if isinstance(stream, Picture):
    return _picture_facts(stream, size)
  seconds = stream.num_samples / stream.sample_rate
  return {
    "codec": stream.codec,
    "weights": stream.weights_hash.hex(),
    "sample_rate": stream.sample_rate,
    "channels": stream.channels,
    "signals": stream.batch,
    "samples": stream.num_samples,
    "seconds": round(seconds, 3),
    "codebooks": len(stream.codebook_sizes),
    "codebook_sizes": sorted(set(stream.codebook_sizes)),
    "frames": stream.num_frames,
    "chunks": stream.num_chunks,
    "chunk_seconds": round(stream.frames_per_chunk * stream.hop_length / stream.sample_rate, 3),
    "nominal_kbps": round(stream.bitrate / 1000, 3),
    "bytes": size,
    "kbps": round(8e-3 * size / seconds / stream.batch, 3) if seconds else 0.0,
    "metadata": {**stream.metadata},
  }


def _picture_facts(picture: Picture, size: int) -> dict[str, Any]:
  return {
    "codec": picture.codec,
    "weights": picture.weights_hash.hex(),
    "width": picture.width,
    "height": picture.height,
    "colors": "grey" if picture.channels == 1 else "RGB",
    "profile_bytes": len(picture.profile),
    "quality": None if picture.quality is None else picture.quality / 10,
    "tile": picture.tile or None,
    "chunks": picture.num_chunks,
    "bytes": size,
    "bits_per_pixel": round(8 * size / (picture.width * picture.height), 4),
    "metadata": {**picture.metadata},
  }


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
  for name, value in facts.items():
    if name != "metadata":
      yield f"{name:15} {value}"
      continue
    for key, text in value.items():
      yield f"{key:15} {text}"
