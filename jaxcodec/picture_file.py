"""Pictures to `.jxc` bytes and back, in memory."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from jaxcodec import fitted_picture
from jaxcodec.entropy import container
from jaxcodec.entropy.container import Header, Picture
from jaxcodec.entropy.picture import MOST_QUALITY
from jaxcodec.errors import CodecError
from jaxcodec.hub.load import bundled, load_picture
from jaxcodec.image import files, latent_codec, passes, tiles
from jaxcodec.image.latent_codec import LatentCodec
from jaxcodec.image.refine import refined
from jaxcodec.image.tiles import PLACE, Spans, Tiling

DEFAULT_QUALITY = 50.0
TILE = 1024  # Pixels a side of a tile, if none is named.
MOST_WHOLE = 1 << 21  # Pixels of a picture that is not cut into tiles, if none are asked for.

Region = tuple[int, int, int, int]  # Column and row of its first pixel, width and height.


def compress(
  codec: LatentCodec,
  x: np.ndarray,
  *,
  quality: float | None = None,
  channels: int = 3,
  profile: bytes = b"",
  metadata: Mapping[str, str] | None = None,
  refine: int = 0,
  trade_off: float | None = None,
  tile: int | None = None,
  progressive: bool = False,
) -> bytes:
  """A picture as the bytes of a `.jxc` file.

  Args:
    codec: a codec of pictures.
    x: floating `[1, height, width, 3]` in [-1, 1], or uint8 as files have it, any size; its last
      row and column stand for what lies outside.
    quality: 0 to 100, to a tenth, for a codec of many rates; None for 50.
    channels: 1 says that the picture is grey, and is to be again.
    profile: the ICC profile of its colours.
    metadata: as of `bitstream.compress`.
    refine, trade_off: steps that move the latents for this picture, 0 for none, and what an error
      counts for them; see `image.refine.refined`.
    tile: pixels a side of tiles that can be decoded alone, a multiple of 64 up to 4096; None: 1024
      for a picture of more than 2^21 pixels, which then takes no more memory than one tile does.
    progressive: whether the start of a file is to be a coarser picture, as it is of all that have
      tiles.

  Raises:
    ValueError: if the shape, the type, quality, profile or metadata do not fit, or a sample is not
      finite.
  """
  if x.ndim != 4 or x.shape[0] != 1 or x.shape[3] != 3 or 0 in x.shape:
    raise ValueError(f"codec {codec.name} takes [1, height, width, 3], got shape {x.shape}")
  floating = np.issubdtype(x.dtype, np.floating)
  if not (x.dtype == np.uint8 or (floating and np.isfinite(x).all())):
    raise ValueError("the picture must be floating and finite, within [-1, 1], or uint8")
  _ = codec.networks  # A codec without files is refused before it computes.
  _, height, width, _ = x.shape
  stored = _stored(codec, quality)
  if tile is None and (progressive or height * width > MOST_WHOLE):
    tile = TILE
  shape = grid(codec, height, width)
  described = Picture(
    codec=codec.name,
    weights_hash=codec.fingerprint,
    height=height,
    width=width,
    channels=channels,
    num_symbols=passes.num_symbols(codec.module, shape),
    profile=profile,
    quality=stored,
    tile=tile or 0,
  )

  def pixels(spans: Spans) -> np.ndarray:
    rows, columns = (
      np.minimum(np.arange(span.start, span.stop), size - 1)
      for span, size in zip(spans, (height, width), strict=True)
    )
    part = x[0, rows[:, None], columns]
    return (
      part.astype(np.float32) / 127.5 - 1 if part.dtype == np.uint8 else part.astype(np.float32)
    )

  level = _level(codec, stored)
  if tile and refine:
    raise ValueError("a picture in tiles is not refined: give refine, or tile or progressive")
  if tile:
    tiling = _tiling(codec, described)
    layers = tiles.strongest(codec, tiling, pixels, level)
    found = list(tiles.encode(codec, tiling, pixels, level, layers))
    described = dataclasses.replace(described, parts=len(found[0]), layers=layers)
    # The first part of every tile, then the second: what comes first is a picture of all of them.
    payloads = [part for parts in zip(*found, strict=True) for part in parts]
  else:
    whole = slice(0, PLACE * shape[0]), slice(0, PLACE * shape[1])
    padded, latents = pixels(whole), None
    if refine:
      latents = refined(
        codec, padded, level, steps=refine, trade_off=trade_off, size=(height, width)
      )
    payloads = [latent_codec.encode(codec, padded, level, latents)]
  header = Header(streams=(described,), metadata=metadata or {})
  records = [
    container.picture_record(header, payload, index=index) for index, payload in enumerate(payloads)
  ]
  return container.write(header, records)


class Part(NamedTuple):
  """What of a picture's file is decoded, and how.

  Attributes:
    region: pixels; None for all. Only the tiles that they depend on are read.
    cut: whether the file may end too early. What is missing is replaced by what is likely then:
      the picture is coarser.
  """

  region: Region | None = None
  cut: bool = False


WHOLE = Part()


def decompress(
  data: bytes,
  codec: LatentCodec | None = None,
  *,
  stream: int | None = None,
  max_memory: int,
  part: Part = WHOLE,
) -> np.ndarray:
  """The picture of a `.jxc` file: float32 `[1, height, width, 3]` in [-1, 1].

  Args:
    codec: None to load the bundled one that the file names.
    stream, max_memory: as of `bitstream.decompress`.

  Raises:
    CodecError: if the file is damaged or foreign, was made by another codec, or is too large.
    ValueError: if the region is not within the picture.
  """
  (height, width), blocks = _blocks(data, codec, stream, max_memory, part, 12)
  y = np.empty((1, height, width, 3), np.float32)
  for (rows, columns), block in blocks:
    y[0, rows, columns] = block
  return y


def decompress_samples(
  data: bytes,
  codec: LatentCodec | None = None,
  *,
  stream: int | None = None,
  max_memory: int,
  part: Part = WHOLE,
) -> np.ndarray:
  """As `decompress`, as a picture file has it: uint8 `[height, width, 3]`, `[height, width]` if it
  is grey."""
  (height, width), blocks = _blocks(data, codec, stream, max_memory, part, 3)
  channels = picture_of(data, stream)[1].channels
  y = np.empty((height, width, 3)[: 2 + (channels == 3)], np.uint8)
  for (rows, columns), block in blocks:
    y[rows, columns] = files.to_bytes(block[None], channels)
  return y


def _blocks(
  data: bytes,
  codec: LatentCodec | None,
  stream: int | None,
  max_memory: int,
  part: Part,
  sample_bytes: int,
) -> tuple[tuple[int, int], Iterator[tuple[Spans, np.ndarray]]]:
  """Height and width of what is to be decoded, and its blocks: where, and float32 [H, W, 3]."""
  number, described = picture_of(data, stream)
  region = _region(described, part.region)
  height, width = (span.stop - span.start for span in region)
  if described.networks:
    if codec is not None:
      raise CodecError(f"the file has networks of its own: codec {codec.name} cannot read it")
    left = max_memory - sample_bytes * height * width
    x = fitted_picture.pixels(data, described, stream=number, max_memory=left)
    whole = slice(0, described.height), slice(0, described.width)
    return (height, width), _placed(described, region, iter([(whole, x)]))
  if codec is None:
    codec = bundled_codec(described)
  if described.weights_hash != codec.fingerprint:
    raise CodecError(
      f"the file was made with other weights than codec {codec.name} has "
      f"(file: {described.codec!r})"
    )
  needed = sample_bytes * height * width + _memory_needed(codec, described)
  if needed > max_memory:
    sizes = f"{needed / 1e6:.0f} MB of memory, and {max_memory / 1e6:.0f}"
    raise CodecError(f"by what it says the file needs {sizes} are allowed")
  symbols = passes.num_symbols(codec.module, grid(codec, described.height, described.width))
  if described.num_symbols != symbols:
    raise CodecError(f"the file has {described.num_symbols} symbols, its codec {symbols}")
  if (described.quality is None) != (not codec.module.levels):
    raise CodecError("the file and its codec do not agree on whether there are qualities")
  read = container.picture_chunks(data, stream=number, cut=part.cut)
  if part.cut and read(0) is None:
    raise CodecError("truncated: not one part of the picture is whole")
  blocks = _decoded(codec, described, read, region)
  return (height, width), _placed(described, region, blocks)


def _decoded(
  codec: LatentCodec, described: Picture, read, region: Spans
) -> Iterator[tuple[Spans, np.ndarray]]:
  """Blocks that hold all of a region, and where they are in the picture."""
  level = _level(codec, described.quality)
  tiling = _tiling(codec, described)
  if not described.tile:
    rows, columns = (PLACE * size for size in tiling.shape)
    x = np.asarray(latent_codec.decode(codec, read(0), rows, columns, level))
    yield (slice(0, rows), slice(0, columns)), x
    return
  count = math.prod(tiling.counts)

  def latents(tile: tuple[int, int]) -> np.ndarray:
    place = tile[0] * tiling.counts[1] + tile[1]
    rows, columns = tiling.places(tile)
    size = rows.stop - rows.start, columns.stop - columns.start
    return latent_codec.decode_parts(
      codec, lambda n: read(n * count + place), described.parts, size, described.layers
    )

  yield from tiles.decode(codec, tiling, latents, level, _places(region))


def _placed(
  described: Picture, region: Spans, blocks: Iterator[tuple[Spans, np.ndarray]]
) -> Iterator[tuple[Spans, np.ndarray]]:
  """What blocks show of a region, counted from its first row and column."""
  for spans, block in blocks:
    shared = tiles.shared(spans, region)
    y = np.clip(block[tiles.relative(shared, spans)], -1, 1)
    if described.channels == 1:
      y = np.broadcast_to(y.mean(axis=-1, keepdims=True), y.shape)
    yield tiles.relative(shared, region), y


def _tiling(codec: LatentCodec, described: Picture) -> Tiling:
  shape = grid(codec, described.height, described.width)
  if not described.tile:
    return Tiling(shape, max(shape), 0)
  return Tiling(shape, described.tile // PLACE, codec.reach)


def _places(spans: Spans) -> Spans:
  rows, columns = (slice(s.start // PLACE, -(-s.stop // PLACE)) for s in spans)
  return rows, columns


def _region(described: Picture, region: Region | None) -> Spans:
  if region is None:
    return slice(0, described.height), slice(0, described.width)
  left, top, width, height = region
  inside = 0 <= left < left + width <= described.width
  if not (inside and 0 <= top < top + height <= described.height):
    size = f"{described.width} x {described.height} pixels"
    raise ValueError(f"the region {left},{top},{width},{height} is not within {size}")
  return slice(top, top + height), slice(left, left + width)


def picture_of(data: bytes, stream: int | None) -> tuple[int, Picture]:
  """Number and description of the picture that a file holds; `stream` if it has several streams.

  Raises:
    CodecError: if there is none, or several and `stream` is None.
  """
  streams = container.read_header(data).streams
  if stream is None and len(streams) > 1:
    raise CodecError(f"the file holds {len(streams)} streams: say which, from 0")
  number = stream or 0
  if not 0 <= number < len(streams):
    raise CodecError(f"no stream {number} in a file of {len(streams)}")
  described = streams[number]
  if not isinstance(described, Picture):
    raise CodecError(f"stream {number} is sound and no picture")
  return number, described


def bundled_codec(described: Picture) -> LatentCodec:
  """The codec that made a file, if it comes with the package.

  Raises:
    CodecError: if it does not.
  """
  if described.codec not in bundled():
    raise CodecError(f"the file needs the codec {described.codec!r}, which is not bundled: load it")
  return load_picture(described.codec)


def holds_picture(data: bytes, stream: int | None) -> bool:
  """Whether the stream asked for, or the first, of a `.jxc` file is a picture."""
  streams = container.read_header(data).streams
  number = stream or 0
  return 0 <= number < len(streams) and isinstance(streams[number], Picture)


def grid(codec: LatentCodec, height: int, width: int) -> tuple[int, int]:
  """Places of the latents of a picture."""
  multiple = codec.module.multiple
  return -(-height // multiple) * multiple // 16, -(-width // multiple) * multiple // 16


def memory_needed(codec: LatentCodec, height: int, width: int) -> int:
  """Bytes that decoding takes at once, estimated: three times what stands before the last layer, at
  half the size, and on the host the largest layer's inputs in float64."""
  rows, columns = grid(codec, height, width)
  places = rows * columns
  return places * (3 * 4 * 64 * codec.module.filters + 8 * 40 * codec.module.latents)


def _memory_needed(codec: LatentCodec, described: Picture) -> int:
  if not described.tile:
    return memory_needed(codec, described.height, described.width)
  side = described.tile + 2 * PLACE * codec.reach
  window = memory_needed(codec, min(side, described.height), min(side, described.width))
  # Latents of three rows of tiles.
  rows = min(3 * described.tile, described.height)
  return window + 4 * codec.module.latents * rows * described.width // PLACE**2


def _stored(codec: LatentCodec, quality: float | None) -> int | None:
  """A quality as the file has it."""
  if not codec.module.levels:
    if quality is not None:
      raise ValueError(f"codec {codec.name} has one quality")
    return None
  quality = DEFAULT_QUALITY if quality is None else quality
  if not 0 <= quality <= 100:
    raise ValueError(f"a quality is 0 to 100, not {quality:g}")
  return round(quality * MOST_QUALITY / 100)


def _level(codec: LatentCodec, stored: int | None) -> float | None:
  """A quality as the module has it."""
  if stored is None:
    return None
  return stored / MOST_QUALITY * (codec.module.levels - 1)
