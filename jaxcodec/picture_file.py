"""Pictures to `.jxc` bytes and back, in memory."""

from collections.abc import Mapping

import numpy as np

from jaxcodec import metrics
from jaxcodec.entropy import container
from jaxcodec.entropy.container import Header, Picture
from jaxcodec.entropy.picture import MOST_QUALITY
from jaxcodec.errors import CodecError
from jaxcodec.hub.load import bundled, load_picture
from jaxcodec.image import files, latent_codec, passes
from jaxcodec.image.latent_codec import LatentCodec
from jaxcodec.image.refine import refined

DEFAULT_QUALITY = 50.0


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
) -> bytes:
  """A picture as the bytes of a `.jxc` file.

  Args:
    codec: a codec of pictures.
    x: floating `[1, height, width, 3]` in [-1, 1], any size; its last row and column stand for what
      lies outside.
    quality: 0 to 100, to a tenth, for a codec of many rates; None for 50.
    channels: 1 says that the picture is grey, and is to be again.
    profile: the ICC profile of its colours.
    metadata: as of `bitstream.compress`.
    refine, trade_off: steps that move the latents for this picture, 0 for none, and what an error
      counts for them; see `image.refine.refined`.

  Raises:
    ValueError: if the shape, the type, quality, profile or metadata do not fit, or a sample is not
      finite.
  """
  if x.ndim != 4 or x.shape[0] != 1 or x.shape[3] != 3 or 0 in x.shape:
    raise ValueError(f"codec {codec.name} takes [1, height, width, 3], got shape {x.shape}")
  if not np.issubdtype(x.dtype, np.floating) or not np.isfinite(x).all():
    raise ValueError("the picture must be floating and finite, within [-1, 1]")
  _, height, width, _ = x.shape
  stored = _stored(codec, quality)
  described = Picture(
    codec=codec.name,
    weights_hash=codec.fingerprint,
    height=height,
    width=width,
    channels=channels,
    num_symbols=passes.num_symbols(codec.module, grid(codec, height, width)),
    profile=profile,
    quality=stored,
  )
  header = Header(streams=(described,), metadata=metadata or {})
  below, right = (-size % codec.module.multiple for size in (height, width))
  padded = np.pad(x[0].astype(np.float32), ((0, below), (0, right), (0, 0)), mode="edge")
  level, latents = _level(codec, stored), None
  if refine:
    latents = refined(codec, padded, level, steps=refine, trade_off=trade_off, size=(height, width))
  payload = latent_codec.encode(codec, padded, level, latents)
  return container.write(header, [container.picture_record(header, payload)])


def compress_to(
  codec: LatentCodec,
  x: np.ndarray,
  *,
  bits_per_pixel: float | None = None,
  psnr: float | None = None,
  channels: int = 3,
  profile: bytes = b"",
  metadata: Mapping[str, str] | None = None,
) -> bytes:
  """As `compress`, of the highest quality whose file has at most some bits a pixel, or of the
  lowest that comes to a PSNR in dB, of samples of 8 bits: found by halving, in some ten runs.

  Raises:
    ValueError: as `compress`; if not one of the two is given, or no quality comes to it.
  """
  if not codec.module.levels:
    raise ValueError(f"codec {codec.name} has one quality")
  if (bits_per_pixel is None) == (psnr is None):
    raise ValueError("give either bits_per_pixel or psnr")

  def coded(stored: int) -> bytes:
    return compress(
      codec,
      x,
      quality=100 * stored / MOST_QUALITY,
      channels=channels,
      profile=profile,
      metadata=metadata,
    )

  def rate(data: bytes) -> float:
    return 8 * len(data) / (x.shape[1] * x.shape[2])

  if bits_per_pixel is not None:
    best = coded(0)
    if rate(best) > bits_per_pixel:
      raise ValueError(f"its lowest quality has {rate(best):.4f} bits a pixel")
    low, high = 0, MOST_QUALITY
    while low < high:
      middle = (low + high + 1) // 2
      data = coded(middle)
      if rate(data) <= bits_per_pixel:
        low, best = middle, data
      else:
        high = middle - 1
    return best
  assert psnr is not None
  pixels = files.to_bytes(x, channels)
  best = coded(MOST_QUALITY)
  if _psnr(codec, best, pixels, channels) < psnr:
    raise ValueError(f"its highest quality has {_psnr(codec, best, pixels, channels):.2f} dB")
  low, high = 0, MOST_QUALITY
  while low < high:
    middle = (low + high) // 2
    data = coded(middle)
    if _psnr(codec, data, pixels, channels) >= psnr:
      high, best = middle, data
    else:
      low = middle + 1
  return best


def _psnr(codec: LatentCodec, data: bytes, pixels: np.ndarray, channels: int) -> float:
  y = decompress(data, codec, max_memory=2**62)
  return metrics.psnr(pixels, files.to_bytes(y, channels))


def decompress(
  data: bytes, codec: LatentCodec | None = None, *, stream: int | None = None, max_memory: int
) -> np.ndarray:
  """The picture of a `.jxc` file: float32 `[1, height, width, 3]` in [-1, 1].

  Args:
    codec: None to load the bundled one that the file names.
    stream, max_memory: as of `bitstream.decompress`.

  Raises:
    CodecError: if the file is damaged or foreign, was made by another codec, or is too large.
  """
  number, described = picture_of(data, stream)
  if codec is None:
    codec = bundled_codec(described)
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
  if (described.quality is None) != (not codec.module.levels):
    raise CodecError("the file and its codec do not agree on whether there are qualities")
  payload = container.read_picture(data, stream=number)
  level = _level(codec, described.quality)
  decoded = latent_codec.decode(codec, payload, 16 * shape[0], 16 * shape[1], level)
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
  """Bytes that decoding takes, estimated: three times what stands before the last layer, at half
  the size, and on the host the largest layer's inputs in float64."""
  rows, columns = grid(codec, height, width)
  places = rows * columns
  return places * (3 * 4 * 64 * codec.module.filters + 8 * 40 * codec.module.latents)


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
