"""Pictures to `.jxc` bytes and back, in memory."""

from collections.abc import Mapping

import numpy as np

from jaxcodec.entropy import container
from jaxcodec.entropy.container import Header, Picture
from jaxcodec.errors import CodecError
from jaxcodec.image import latent_codec, passes
from jaxcodec.image.latent_codec import LatentCodec


def compress(
  codec: LatentCodec,
  x: np.ndarray,
  *,
  channels: int = 3,
  profile: bytes = b"",
  metadata: Mapping[str, str] | None = None,
) -> bytes:
  """A picture as the bytes of a `.jxc` file.

  Args:
    codec: a codec of pictures.
    x: floating `[1, height, width, 3]` in [-1, 1], any size; its last row and column stand for what
      lies outside.
    channels: 1 says that the picture is grey, and is to be again.
    profile: the ICC profile of its colours.
    metadata: as of `bitstream.compress`.

  Raises:
    ValueError: if the shape, the type, profile or metadata do not fit, or a sample is not finite.
  """
  if x.ndim != 4 or x.shape[0] != 1 or x.shape[3] != 3 or 0 in x.shape:
    raise ValueError(f"codec {codec.name} takes [1, height, width, 3], got shape {x.shape}")
  if not np.issubdtype(x.dtype, np.floating) or not np.isfinite(x).all():
    raise ValueError("the picture must be floating and finite, within [-1, 1]")
  _, height, width, _ = x.shape
  described = Picture(
    codec=codec.name,
    weights_hash=codec.fingerprint,
    height=height,
    width=width,
    channels=channels,
    num_symbols=passes.num_symbols(codec.module, grid(codec, height, width)),
    profile=profile,
  )
  header = Header(streams=(described,), metadata=metadata or {})
  below, right = (-size % codec.module.multiple for size in (height, width))
  padded = np.pad(x[0].astype(np.float32), ((0, below), (0, right), (0, 0)), mode="edge")
  payload = latent_codec.encode(codec, padded)
  return container.write(header, [container.picture_record(header, payload)])


def decompress(
  data: bytes, codec: LatentCodec, *, stream: int | None = None, max_memory: int
) -> np.ndarray:
  """The picture of a `.jxc` file: float32 `[1, height, width, 3]` in [-1, 1].

  Args:
    stream, max_memory: as of `bitstream.decompress`.

  Raises:
    CodecError: if the file is damaged or foreign, was made by another codec, or is too large.
  """
  number, described = picture_of(data, stream)
  if described.weights_hash != codec.fingerprint:
    raise CodecError(
      f"the file was made with other weights than codec {codec.name} has "
      f"(file: {described.codec!r})"
    )
  height, width = described.height, described.width
  needed = memory_needed(codec, height, width)
  if needed > max_memory:
    sizes = f"{needed / 1e6:.0f} MB of memory, and {max_memory / 1e6:.0f}"
    raise CodecError(f"by what it says the file needs {sizes} are allowed")
  shape = grid(codec, height, width)
  symbols = passes.num_symbols(codec.module, shape)
  if described.num_symbols != symbols:
    raise CodecError(f"the file has {described.num_symbols} symbols, its codec {symbols}")
  payload = container.read_picture(data, stream=number)
  decoded = latent_codec.decode(codec, payload, 16 * shape[0], 16 * shape[1])
  y = np.clip(np.asarray(decoded)[:height, :width], -1, 1)
  if described.channels == 1:
    y = np.broadcast_to(y.mean(axis=-1, keepdims=True), y.shape)
  return y[None]


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


def grid(codec: LatentCodec, height: int, width: int) -> tuple[int, int]:
  """Places of the latents of a picture."""
  multiple = codec.module.multiple
  return -(-height // multiple) * multiple // 16, -(-width // multiple) * multiple // 16


def memory_needed(codec: LatentCodec, height: int, width: int) -> int:
  """Bytes that decoding takes, estimated: three times what stands before the last layer, at half
  the size, and on the host the largest layer's inputs in float64."""
  rows, columns = grid(codec, height, width)
  places = rows * columns
  return places * (3 * 4 * 64 * codec.module.filters + 8 * 40 * codec.module.latents)
