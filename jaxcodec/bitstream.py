"""Signals to `.jxc` bytes and back, in memory or block by block.

A causal codec runs through a recording of any length in chunks, carrying its state, with the very
codes of the whole; memory does not grow with the recording but for the codes themselves.
"""

from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec import codec as codec_lib
from jaxcodec.audio.encodec import ScaledCodes
from jaxcodec.codec import Codec
from jaxcodec.entropy import container
from jaxcodec.entropy.container import Header
from jaxcodec.errors import CodecError
from jaxcodec.hub.load import bundled, load

# A chunk can be decoded alone, so it should be short; its tables adapt, so it should be long.
_CHUNK_SECONDS = 10

_encode = jax.jit(codec_lib.encode, static_argnames="bitrate")
_decode = jax.jit(codec_lib.decode)
_encode_chunk = jax.jit(codec_lib.encode_chunk, static_argnames=("bitrate", "final"))
_decode_chunk = jax.jit(codec_lib.decode_chunk)


def compress(codec: Codec, x, *, bitrate: int | None = None) -> bytes:
  """A signal as the bytes of a `.jxc` file.

  Args:
    codec: what `jaxcodec.load` returned.
    x: floating `[batch, time, channels]` in [-1, 1] at `codec.sample_rate`; any length.
    bitrate: one of `codec.bitrates` in bit/s; None for the highest.

  Raises:
    ValueError: if the shape, the type or the bitrate does not fit, or a sample is not finite.
  """
  x = np.asarray(x)
  return compress_blocks(codec, [x], batch=x.shape[0] if x.ndim else 0, bitrate=bitrate)


def decompress(data: bytes, codec: Codec | None = None) -> np.ndarray:
  """The signal of a `.jxc` file, of its exact shape: float32 `[batch, time, channels]`.

  Args:
    data: the file's bytes.
    codec: the codec that made it; None to load the bundled one that the file names.

  Raises:
    CodecError: if the file is damaged or foreign, or was made by another codec.
  """
  header, blocks = decompress_blocks(data, codec)
  empty = np.zeros((header.batch, 0, header.channels), np.float32)
  return np.concatenate([empty, *blocks], axis=1)


def compress_blocks(
  codec: Codec, blocks: Iterable[np.ndarray], *, batch: int = 1, bitrate: int | None = None
) -> bytes:
  """As `compress`, for a signal that comes in blocks `[batch, time, channels]` of any lengths."""
  num_codebooks = codec_lib.encode(codec, jnp.zeros((1, 0, codec.channels)), bitrate=bitrate)
  num_codebooks = _split(num_codebooks)[0].shape[-1]
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

  encode_all = _encode_in_chunks if codec.streams else _encode_whole
  chunks = list(encode_all(codec, counted(), bitrate))
  header = Header(
    codec=codec.name,
    weights_hash=codec_lib.fingerprint(codec),
    sample_rate=codec.sample_rate,
    channels=codec.channels,
    batch=batch,
    num_samples=length,
    hop_length=codec.hop_length,
    num_frames=sum(codes.shape[1] for codes, _ in chunks),
    frames_per_chunk=_frames_per_chunk(codec),
    segment_frames=codec.module.segment_frames if codec.module.normalize else 0,
    codebook_sizes=codec.codebook_sizes[:num_codebooks],
  )
  prior = np.asarray(codec.prior)[:num_codebooks]
  records = [
    container.encode_chunk(header, index, codes, scales, prior)
    for index, (codes, scales) in enumerate(chunks)
  ]
  return container.write(header, records)


def decompress_blocks(
  data: bytes, codec: Codec | None = None
) -> tuple[Header, Iterator[np.ndarray]]:
  """As `decompress`, block by block: the header, and an iterator of `[batch, time, channels]`.

  Raises:
    CodecError: at once for the header and a codec that does not fit, from the iterator for a chunk.
  """
  header = container.read_header(data)
  if codec is None:
    if header.codec not in bundled():
      raise CodecError(f"the file needs the codec {header.codec!r}, which is not bundled: load it")
    codec = load(header.codec)
  _require_match(codec, header)
  return header, _decode_blocks(codec, header, data)


def _decode_blocks(codec: Codec, header: Header, data: bytes) -> Iterator[np.ndarray]:
  prior = np.asarray(codec.prior)[: len(header.codebook_sizes)]
  chunks = container.read_chunks(data, prior)
  left = header.num_samples
  if not codec.streams:
    parts = list(chunks)
    if parts:
      codes = np.concatenate([codes for codes, _ in parts], axis=1)
      missing = _missing_frames(codec, left)
      end = codes.shape[1] - codec.module.segment_sizes(left)[-1]
      whole = jnp.asarray(np.delete(codes, slice(end - missing, end), axis=1))
      scales = [jnp.asarray(scales) for _, scales in parts if scales is not None]
      coded = ScaledCodes(whole, jnp.concatenate(scales, axis=1)) if scales else whole
      yield np.asarray(_decode(codec, coded))[:, :left]
    return
  state = codec_lib.init_stream(codec, header.batch)
  # Pieces of our own size, whatever the file's chunks are: that bounds the memory.
  size = _frames_per_chunk(codec)
  for codes, _ in _regroup((codes for codes, _ in chunks), size):
    frames = codes.shape[1]
    if codec.module.pads_with_zeros:
      # One shape, so one compilation; a dropped code counts as zero.
      codes = np.pad(codes, ((0, 0), (0, size - frames), (0, 0)), constant_values=-1)
    state, y = _decode_chunk(codec, state, codes)
    y = np.asarray(y)[:, : min(left, frames * codec.hop_length)]
    left -= y.shape[1]
    yield y


def _encode_in_chunks(codec: Codec, blocks, bitrate):
  size = _frames_per_chunk(codec) * codec.hop_length
  state, pending = None, None
  for block, final in _regroup(blocks, size):
    if state is None:
      state = codec_lib.init_stream(codec, block.shape[0])
    frames = -(-block.shape[1] // codec.hop_length)
    if codec.module.pads_with_zeros:
      # One shape, so one compilation; nothing before the padding changes.
      block, final = np.pad(block, ((0, 0), (0, size - block.shape[1]), (0, 0))), False
    state, codes = _encode_chunk(codec, state, block, bitrate=bitrate, final=final)
    # The device works on this chunk while the host reads and resamples the next.
    if pending is not None:
      yield np.asarray(pending), None
    pending = codes[:, :frames]
  if pending is not None:
    yield np.asarray(pending), None


def _encode_whole(codec: Codec, blocks, bitrate):
  blocks = list(blocks)
  x = np.concatenate(blocks, axis=1) if blocks else np.zeros((1, 0, codec.channels), np.float32)
  if x.shape[1] == 0:
    return
  codes, scales = _split(_encode(codec, jnp.asarray(x), bitrate=bitrate))
  codes = np.asarray(codes)
  missing = _missing_frames(codec, x.shape[1])
  if missing:
    at = codes.shape[1] - codec.module.segment_sizes(x.shape[1])[-1]
    codes = np.insert(codes, [at] * missing, 0, axis=1)
  frames = _frames_per_chunk(codec)
  segments = frames // codec.module.segment_frames if codec.module.segment_frames else 0
  for i in range(0, codes.shape[1], frames):
    j = i // frames * segments
    part = None if scales is None else np.asarray(scales[:, j : j + segments])
    yield np.asarray(codes[:, i : i + frames]), part


def _missing_frames(codec: Codec, num_samples: int) -> int:
  """Frames by which the last segment but one is shorter than the file's frames per segment.

  It is so only where the last segment lies within the overlap; the file has zeros there, so that
  every segment of it but the last is whole.
  """
  sizes = codec.module.segment_sizes(num_samples)
  return codec.module.segment_frames - sizes[-2] if len(sizes) > 1 else 0


def _split(codes):
  """Codes, and scales or None."""
  return (codes.codes, codes.scales) if isinstance(codes, ScaledCodes) else (codes, None)


def _frames_per_chunk(codec: Codec) -> int:
  module = codec.module
  if not module.segment_length:
    return max(1, round(_CHUNK_SECONDS * codec.sample_rate / codec.hop_length))
  return max(1, round(_CHUNK_SECONDS * codec.sample_rate / module.segment_stride)) * (
    module.segment_frames
  )


def _regroup(blocks: Iterable[np.ndarray], size: int) -> Iterator[tuple[np.ndarray, bool]]:
  """The same signal in blocks of `size` steps, the last one shorter, each with whether it is
  last."""
  held: list[np.ndarray] = []
  count = 0
  for block in blocks:
    held.append(block)
    count += block.shape[1]
    while count > size:  # Not >=: what fills up exactly may be the end.
      joined = np.concatenate(held, axis=1)
      yield joined[:, :size], False
      held, count = [joined[:, size:]], count - size
  if count:
    yield np.concatenate(held, axis=1), True


def _stored_frames(codec: Codec, num_samples: int) -> int:
  """Frames of a file with a signal of `num_samples`."""
  module = codec.module
  if not module.segment_length:
    return -(-num_samples // module.hop_length)
  # Counted, not listed: a hostile header may claim any number of samples.
  whole = max(0, -(-num_samples // module.segment_stride) - 1)
  last = num_samples - whole * module.segment_stride
  return whole * module.segment_frames + -(-last // module.hop_length)


def _require_match(codec: Codec, header: Header) -> None:
  if header.weights_hash != codec_lib.fingerprint(codec):
    raise CodecError(
      f"the file was made with other weights than codec {codec.name} has (file: {header.codec!r})"
    )
  module = codec.module
  sizes = codec.codebook_sizes[: len(header.codebook_sizes)]
  facts = (
    ("sample rate", header.sample_rate, codec.sample_rate),
    ("channels", header.channels, codec.channels),
    ("hop length", header.hop_length, codec.hop_length),
    ("codebook sizes", header.codebook_sizes, sizes),
    ("segment frames", header.segment_frames, module.segment_frames if module.normalize else 0),
    ("number of frames", header.num_frames, _stored_frames(codec, header.num_samples)),
  )
  for what, found, needed in facts:
    if found != needed:
      raise CodecError(f"the file's {what} is {found}, its codec {codec.name} has {needed}")
