"""Signals to `.jxc` bytes and back, in memory or block by block.

Memory does not grow with the recording but for the codes themselves (see `chunked`).
"""

import math
from collections.abc import Iterable, Iterator, Mapping

import jax.numpy as jnp
import numpy as np

from jaxcodec import chunked, codec as codec_lib, picture_file
from jaxcodec.audio.encodec import ScaledCodes
from jaxcodec.codec import Codec
from jaxcodec.entropy import adaptive, container, learned as learned_lib
from jaxcodec.entropy.container import Header, Stream
from jaxcodec.entropy.learned import LearnedPrior
from jaxcodec.errors import CodecError
from jaxcodec.hub.load import bundled, load_sound
from jaxcodec.image.latent_codec import LatentCodec

# A chunk can be decoded alone, so it should be short; its tables adapt, so it should be long.
CHUNK_SECONDS = 10

# Bytes. Far above what recordings take, far below what a forged header can ask for.
MAX_MEMORY = 8 * 10**9


def compress(
  codec: Codec | LatentCodec,
  x,
  *,
  bitrate: int | None = None,
  quality: float | None = None,
  metadata: Mapping[str, str] | None = None,
  learned: bool = False,
  tile: int | None = None,
  progressive: bool = False,
) -> bytes:
  """A signal as the bytes of a `.jxc` file.

  Args:
    codec: what `jaxcodec.load` returned.
    x: floating `[batch, time, channels]` in [-1, 1] at `codec.sample_rate`; any length. For a
      codec of pictures `[1, height, width, 3]`, any size.
    bitrate: one of `codec.bitrates` in bit/s; None for the highest. Not for pictures.
    quality: 0 to 100, for a codec of pictures that has many; None for 50.
    metadata: texts that go with it, such as `{"title": "A talk"}`: up to 64, of keys of a-z, 0-9,
      '.', '_' and '-', and printable values of up to 4096 bytes. "source-sha256" is for the hash
      of the file that the signal came from.
    learned: whether to use the codec's learned prior, for a smaller file in more time.
    tile, progressive: of a picture, see `picture_file.compress`.

  Raises:
    ValueError: if the shape, the type, the bitrate or the metadata do not fit, a sample is not
      finite, or the codec has no learned prior.
  """
  x = np.asarray(x)
  if isinstance(codec, LatentCodec):
    if bitrate is not None or learned:
      raise ValueError(f"codec {codec.name} of pictures has neither bitrates nor a learned prior")
    return picture_file.compress(
      codec, x, quality=quality, metadata=metadata, tile=tile, progressive=progressive
    )
  if quality is not None:
    raise ValueError(f"codec {codec.name} of sound has bitrates and no quality")
  if tile is not None or progressive:
    raise ValueError("tiles and progressive files are for pictures")
  batch = x.shape[0] if x.ndim else 0
  return compress_blocks(
    codec, [x], batch=batch, bitrate=bitrate, metadata=metadata, learned=learned
  )


def decompress(
  data: bytes,
  codec: Codec | LatentCodec | None = None,
  *,
  stream: int | None = None,
  start: float = 0.0,
  duration: float | None = None,
  region: picture_file.Region | None = None,
  cut: bool = False,
  max_memory: int = MAX_MEMORY,
) -> np.ndarray:
  """The signal of a `.jxc` file, of its exact shape: float32 `[batch, time, channels]`, or
  `[1, height, width, 3]` in [-1, 1] of a picture.

  Args:
    data: the file's bytes.
    codec: the codec that made it; None to load the bundled one that the file names.
    stream: which of the file's streams; None if there is but one.
    start, duration: seconds to begin at and to return, to the nearest sample; None for all that is
      left. Only the chunks that these samples depend on are read, and to rounding they are those of
      the whole signal.
    region: of a picture, `(x, y, width, height)` in pixels; None for all. Only the tiles that it
      depends on are read, and it is equal to that part of the whole.
    cut: whether a picture's file may be but its beginning, for a coarser picture. It needs tiles.
    max_memory: bytes; a file that says it needs more is refused (see `memory_needed`).

  Raises:
    CodecError: if the file is damaged or foreign, was made by another codec, or is too large.
    ValueError: if the start lies after the end, or a number is negative.
  """
  if isinstance(codec, LatentCodec) or (codec is None and picture_file.holds_picture(data, stream)):
    if start or duration is not None:
      raise ValueError("a picture has no start and no duration")
    part = picture_file.Part(region, cut)
    return picture_file.decompress(data, codec, stream=stream, max_memory=max_memory, part=part)
  if region is not None or cut:
    raise ValueError("a region and a cut file are for pictures")
  described, blocks = decompress_blocks(
    data,
    codec,
    stream=stream,
    start=start,
    duration=duration,
    max_memory=max_memory,
    held=True,
  )
  first, stop = sample_range(described, start, duration)
  y = np.empty((described.batch, stop - first, described.channels), np.float32)
  at = 0
  for block in blocks:
    y[:, at : at + block.shape[1]] = block
    at += block.shape[1]
  assert at == y.shape[1]
  return y


def compress_blocks(
  codec: Codec,
  blocks: Iterable[np.ndarray],
  *,
  batch: int = 1,
  bitrate: int | None = None,
  metadata: Mapping[str, str] | None = None,
  learned: bool = False,
) -> bytes:
  """As `compress`, for a signal that comes in blocks `[batch, time, channels]` of any lengths."""
  network = _require_learned_prior(codec) if learned else None
  nothing = codec_lib.encode(codec, jnp.zeros((1, 0, codec.channels)), bitrate=bitrate)
  codes = nothing.codes if isinstance(nothing, ScaledCodes) else nothing
  num_codebooks = codes.shape[-1]
  length = 0

  def counted():
    nonlocal length
    for block in blocks:
      block = np.asarray(block)
      expected = f"[{batch}, time, {codec.channels}]"
      if block.ndim != 3 or block.shape[::2] != (batch, codec.channels):
        raise ValueError(f"codec {codec.name} takes {expected}, got shape {block.shape}")
      if not np.issubdtype(block.dtype, np.floating):
        raise ValueError(f"the signal must be floating, within [-1, 1]; got {block.dtype}")
      if not np.isfinite(block).all():
        first = length + int(np.argwhere(~np.isfinite(block).all(axis=(0, 2)))[0, 0])
        raise ValueError(f"sample {first} of the signal is not finite")
      length += block.shape[1]
      yield block.astype(np.float32)

  frames = chunked.chunk_frames(codec, CHUNK_SECONDS)
  chunks = list(chunked.encode_blocks(codec, counted(), frames, bitrate=bitrate))
  sizes = codec.codebook_sizes[:num_codebooks]
  prior = np.asarray(codec.prior)[:num_codebooks, : max(sizes)]
  stream = Stream(
    codec=codec.name,
    weights_hash=codec_lib.fingerprint(codec),
    sample_rate=codec.sample_rate,
    channels=codec.channels,
    batch=batch,
    num_samples=length,
    hop_length=codec.hop_length,
    num_frames=sum(codes.shape[1] for codes, _ in chunks),
    frames_per_chunk=frames,
    segment_frames=codec.module.segment_frames,
    codebook_sizes=sizes,
    prior_crc=adaptive.prior_crc(prior, sizes),
    learned_digest=learned_lib.digest(network) if network else None,
  )
  header = Header(streams=(stream,), metadata=metadata or {})
  coded = _under_learned_prior(network, chunks) if network else [None] * len(chunks)
  records = [
    container.encode_chunk(header, index, codes, scales, prior, coded[index])
    for index, (codes, scales) in enumerate(chunks)
  ]
  return container.write(header, records)


def _require_learned_prior(codec: Codec) -> LearnedPrior:
  if codec.learned is None:
    raise ValueError(f"codec {codec.name} has no learned prior")
  return codec.learned


def _under_learned_prior(prior: LearnedPrior, chunks) -> list[bytes]:
  """What `container.encode_chunk` takes of each chunk's codes."""
  return learned_lib.encode(prior, [np.asarray(codes) for codes, _ in chunks])


def decompress_blocks(
  data: bytes,
  codec: Codec | None = None,
  *,
  stream: int | None = None,
  start: float = 0.0,
  duration: float | None = None,
  max_memory: int = MAX_MEMORY,
  held: bool = False,
) -> tuple[Stream, Iterator[np.ndarray]]:
  """As `decompress`, block by block: what the file says of its stream, and an iterator of
  `[batch, time, channels]`.

  Args:
    held: whether the caller keeps all blocks, which then count as memory.

  Raises:
    CodecError: at once for the header and a codec that does not fit, from the iterator for a chunk.
    ValueError: as `decompress`.
  """
  header = container.read_header(data)
  if stream is None and len(header.streams) > 1:
    raise CodecError(f"the file holds {len(header.streams)} streams: say which, from 0")
  number = stream or 0
  if not 0 <= number < len(header.streams):
    raise CodecError(f"no stream {number} in a file of {len(header.streams)}")
  described = container.sound_stream(header, number)
  first, stop = sample_range(described, start, duration)
  if codec is None:
    if described.codec not in bundled():
      raise CodecError(
        f"the file needs the codec {described.codec!r}, which is not bundled: load it"
      )
    codec = load_sound(described.codec)
  _require_match(codec, described)
  needed = memory_needed(described, codec, stop - first if held else 0)
  if needed > max_memory:
    sizes = f"{needed / 1e6:.0f} MB of memory, and {max_memory / 1e6:.0f}"
    raise CodecError(f"by what it says the file needs {sizes} are allowed")
  # Here and not in the iterator, so that a bad index is found at once.
  container.read_layout(data)
  return described, _decode_blocks(codec, data, number, described, first, stop)


def sample_range(stream: Stream, start: float, duration: float | None) -> tuple[int, int]:
  """Samples from `start` seconds on for `duration`, cut at the signal's end: the first, and the
  one after the last.

  Raises:
    ValueError: if the start lies after the end, or a number is negative.
  """
  rate, length = stream.sample_rate, stream.num_samples
  for name, value in (("start", start), ("duration", duration)):
    if value is not None and not 0 <= value < math.inf:
      raise ValueError(f"{name} must be 0 seconds or more, not {value:g}")
  first = round(start * rate)
  if first > length:
    raise ValueError(f"start {start:g} s lies after the end, {length / rate:g} s")
  return first, length if duration is None else min(length, first + round(duration * rate))


def memory_needed(stream: Stream, codec: Codec, held: int = 0) -> int:
  """Bytes that decoding takes by what a file says of itself, estimated.

  Its largest chunk's codes on their way; the network at work on a block of ten seconds of all rows,
  on a window, or on all there is if it decodes only whole signals, with four copies of the widest
  thing at the signal's rate, as measured; and `held` samples of each row.
  """
  frames = min(stream.num_frames, stream.frames_per_chunk)
  codes = stream.batch * frames * len(stream.codebook_sizes)
  longest = max(1, CHUNK_SECONDS * stream.sample_rate // stream.hop_length)
  if not (codec.module.decoder_streams or stream.segment_frames):
    longest = stream.num_frames
  # A window is filled up.
  at_once = codec.module.window_frames or min(stream.num_frames, longest)
  block = stream.batch * at_once * stream.hop_length
  width = 4 * codec.module.signal_width
  return 24 * codes + 4 * (width * block + stream.batch * held * stream.channels)


def _decode_blocks(codec, data, number, stream, first, stop) -> Iterator[np.ndarray]:
  if first == stop:
    return
  prior = np.asarray(codec.prior)[: len(stream.codebook_sizes), : max(stream.codebook_sizes)]
  span = chunked.span(codec, stream.num_samples, first, stop)
  per_chunk = stream.frames_per_chunk
  chunks = container.read_chunks(
    data,
    prior,
    codec.learned,
    stream=number,
    first=span.first // per_chunk,
    last=-(-span.last // per_chunk),
  )
  # Pieces of our own size, whatever the file's chunks are: that bounds the memory.
  frames = chunked.chunk_frames(codec, CHUNK_SECONDS)
  blocks = chunked.decode_blocks(codec, _within(chunks, stream, span), frames, span.num_samples)
  yield from chunked.cut(blocks, first - span.start, stop - first)


def _within(chunks, stream: Stream, span: chunked.Span) -> Iterator[chunked.Coded]:
  """The frames of a span, from the chunks that hold them."""
  at = span.first // stream.frames_per_chunk * stream.frames_per_chunk
  for codes, scales in chunks:
    begin, end = max(0, span.first - at), min(codes.shape[1], span.last - at)
    at += codes.shape[1]
    if scales is not None:
      size = stream.segment_frames
      scales = scales[:, begin // size : -(-end // size)]
    yield codes[:, begin:end], scales


def _require_match(codec: Codec, stream: Stream) -> None:
  if stream.weights_hash != codec_lib.fingerprint(codec):
    raise CodecError(
      f"the file was made with other weights than codec {codec.name} has (file: {stream.codec!r})"
    )
  module = codec.module
  sizes = codec.codebook_sizes[: max(module.fewest_codebooks, len(stream.codebook_sizes))]
  facts = (
    ("sample rate", stream.sample_rate, codec.sample_rate),
    ("channels", stream.channels, codec.channels),
    ("hop length", stream.hop_length, codec.hop_length),
    ("codebook sizes", stream.codebook_sizes, sizes),
    ("segment frames", stream.segment_frames, module.segment_frames),
    ("number of frames", stream.num_frames, chunked.stored_frames(codec, stream.num_samples)),
  )
  for what, found, needed in facts:
    if found != needed:
      raise CodecError(f"the file's {what} is {found}, its codec {codec.name} has {needed}")
