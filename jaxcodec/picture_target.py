"""Pictures to `.jxc` files of a rate or a quality that is asked for, found by trying."""

from collections.abc import Mapping

import numpy as np

from jaxcodec import metrics
from jaxcodec.entropy.picture import MOST_QUALITY
from jaxcodec.image import files
from jaxcodec.image.latent_codec import LatentCodec
from jaxcodec.picture_file import compress, decompress_samples


def compress_to(
  codec: LatentCodec,
  x: np.ndarray,
  *,
  bits_per_pixel: float | None = None,
  psnr: float | None = None,
  channels: int = 3,
  profile: bytes = b"",
  metadata: Mapping[str, str] | None = None,
  tile: int | None = None,
  progressive: bool = False,
) -> bytes:
  """As `picture_file.compress`, at the best quality that keeps to a rate, or the lowest that comes
  to a PSNR in dB of samples of 8 bits: found by halving, in some ten runs.

  Raises:
    ValueError: as `picture_file.compress`; if not one of `bits_per_pixel` and `psnr` is given, or
      no quality comes to it.
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
      tile=tile,
      progressive=progressive,
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
  pixels = x[0] if x.dtype == np.uint8 else files.to_bytes(x, 3)
  pixels = pixels[..., 0] if channels == 1 else pixels
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
  y = decompress_samples(data, codec, max_memory=2**62)
  return metrics.psnr(pixels, y)
