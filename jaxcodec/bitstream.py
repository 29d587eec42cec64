"""Signals to `.jxc` bytes and back, in memory or block by block.

Memory does not grow with the recording but for the codes themselves (see `chunked`).
"""

from collections.abc import Iterable, Iterator

import jax.numpy as jnp
import numpy as np

from jaxcodec import chunked, codec as codec_lib
from jaxcodec.audio.encodec import ScaledCodes
from jaxcodec.codec import Codec
from jaxcodec.entropy import container, learned as learned_lib
from jaxcodec.entropy.container import Header
from jaxcodec.entropy.learned import LearnedPrior
from jaxcodec.errors import CodecError
from jaxcodec.hub.load import bundled, load

# A chunk can be decoded alone, so it should be short; its tables adapt, so it should be long.
CHUNK_SECONDS = 10


def compress(codec: Codec, x, *, bitrate: int | None = None, learned: bool = False) -> bytes:
  """A signal as the bytes of a `.jxc` file.

  Args:
    codec: what `jaxcodec.load` returned.
    x: floating `[batch, time, channels]` in [-1, 1] at `codec.sample_rate`; any length.
    bitrate: one of `codec.bitrates` in bit/s; None for the highest.
    learned: whether to use the codec's learned prior, for a smaller file in more time.

  Raises:
    ValueError: if the shape, the type or the bitrate does not fit, a sample is not finite, or the
      codec has no learned prior.
  """
  x = np.asarray(x)
  batch = x.shape[0] if x.ndim else 0
  return compress_blocks(codec, [x], batch=batch, bitrate=bitrate, learned=learned)


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
  codec: Codec,
  blocks: Iterable[np.ndarray],
  *,
  batch: int = 1,
  bitrate: int | None = None,
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
  header = Header(
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
    codebook_sizes=codec.codebook_sizes[:num_codebooks],
  )
  prior = np.asarray(codec.prior)[:num_codebooks]
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


def _under_learned_prior(prior: LearnedPrior, chunks) -> list[tuple[bytes, bytes]]:
  """What `container.encode_chunk` takes of each chunk's codes."""
  digest = learned_lib.digest(prior)
  codes = [np.asarray(codes) for codes, _ in chunks]
  return [(coded, digest) for coded in learned_lib.encode(prior, codes)]


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
  # Pieces of our own size, whatever the file's chunks are: that bounds the memory.
  frames = chunked.chunk_frames(codec, CHUNK_SECONDS)
  chunks = container.read_chunks(data, prior, codec.learned)
  return chunked.decode_blocks(codec, chunks, frames, header.num_samples)


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
    ("segment frames", header.segment_frames, module.segment_frames),
    ("number of frames", header.num_frames, chunked.stored_frames(codec, header.num_samples)),
  )
  for what, found, needed in facts:
    if found != needed:
      raise CodecError(f"the file's {what} is {found}, its codec {codec.name} has {needed}")
