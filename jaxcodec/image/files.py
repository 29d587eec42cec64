"""Picture files: what of them a codec of pictures keeps, and what is refused in one line."""

import io
import pathlib
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from jaxcodec.entropy.picture import MOST_PIXELS, MOST_PROFILE
from jaxcodec.errors import CodecError

FORMATS = {".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}


class Pixels(NamedTuple):
  """A picture as a codec takes it.

  Attributes:
    samples: uint8 [1, H, W, 3], the right way up.
    channels: 1 for grey, 3 for colours.
    profile: its ICC profile, or nothing.
    change: one line that says what is not as in the file; empty if nothing is.
  """

  samples: np.ndarray
  channels: int
  profile: bytes
  change: str

  @property
  def x(self) -> np.ndarray:
    """The samples as float32 in [-1, 1]."""
    return self.samples.astype(np.float32) / 127.5 - 1


def read_picture(source: str | pathlib.Path | BinaryIO, name: str) -> Pixels:
  """A picture file's pixels. Rotation by EXIF is carried out; grey and ICC profile are kept.

  Raises:
    CodecError: if it cannot be read, or has what would be lost: several pictures, an alpha channel
      that is not opaque, more than 8 bits a sample, inks for colours, or too large a profile.
  """
  try:
    with Image.open(source) as stored:
      if stored.width * stored.height > MOST_PIXELS:
        raise CodecError(f"{name} has {stored.width} x {stored.height} pixels: too many")
      frames = getattr(stored, "n_frames", 1)
      if frames > 1:
        raise CodecError(f"{name} is {frames} pictures (animated, or pages): give one")
      return _pixels(stored, name)
  except CodecError:
    raise
  except Exception as error:  # Of any kind: Pillow's decoders raise what they like.
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise CodecError(f"{name} is not a picture that can be read: {reason}") from None


def write_picture(file: pathlib.Path | BinaryIO, kind: str, x: np.ndarray, profile: bytes) -> None:
  """Writes uint8 [H, W, 3] or [H, W] without loss, with its ICC profile."""
  options: dict[str, Any] = {"icc_profile": profile} if profile else {}
  if kind == "WEBP":
    options["lossless"] = True
  Image.fromarray(x).save(file, kind, **options)


def to_bytes(x: np.ndarray, channels: int) -> np.ndarray:
  """uint8 [H, W, 3], or [H, W] for one channel, of float [1, H, W, 3] in [-1, 1]."""
  pixels = np.clip(np.rint((x[0] + 1) * 127.5), 0, 255).astype(np.uint8)
  return pixels[..., 0] if channels == 1 else pixels


def picture_format(path: pathlib.Path) -> str | None:
  """Pillow's name of the lossless format that a path's suffix asks for; None for none of them."""
  return FORMATS.get(path.suffix.lower())


def is_picture(source: pathlib.Path | BinaryIO) -> bool:
  """Whether Pillow knows the file by its start."""
  try:
    with Image.open(source):
      return True
  except Exception:  # Of any kind: Pillow's decoders raise what they like.
    return False
  finally:
    if isinstance(source, io.BytesIO):
      source.seek(0)


def _pixels(stored: Image.Image, name: str) -> Pixels:
  changes = []
  if stored.mode in ("CMYK", "LAB", "HSV"):
    raise CodecError(f"{name} has colours as {stored.mode}, the codec takes RGB: convert it first")
  deep = stored.mode in ("I", "F") or stored.mode.startswith("I;")
  if deep or _sample_bits(stored) > 8:
    raise CodecError(f"{name} has more than 8 bits a sample, which would be lost: convert it first")
  profile = stored.info.get("icc_profile") or b""
  if len(profile) > MOST_PROFILE:
    limit = f"at most {MOST_PROFILE} are kept: convert it to sRGB first"
    raise CodecError(f"{name} has an ICC profile of {len(profile)} bytes; {limit}")
  # Where nothing is to be done, no copy: a picture may have hundreds of megabytes.
  upright = ImageOps.exif_transpose(stored) if _orientation(stored) > 1 else stored
  if upright is not stored:
    changes.append("turned as its EXIF says")
  if upright.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in upright.info:
    if np.asarray(upright.convert("RGBA").getchannel("A")).min() < 255:
      raise CodecError(f"{name} has an alpha channel, which would be lost: flatten it first")
    changes.append("its alpha channel, opaque everywhere, is left out")
    upright = upright.convert("L" if upright.mode in ("LA", "La") else "RGB")
  if upright.mode == "P":
    changes.append("its palette turned to RGB")
    upright = upright.convert("RGB")
  grey = upright.mode in ("L", "1")
  samples = np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))[None]
  return Pixels(samples, 1 if grey else 3, profile, ", ".join(changes))


def _orientation(picture: Image.Image) -> int:
  value = picture.getexif().get(0x0112, 1)
  return value if isinstance(value, int) else 1


def _sample_bits(picture: Image.Image) -> int:
  """Bits a sample in the file: Pillow cuts those of some files to 8 in silence."""
  if picture.format == "PNG":
    # The raw mode of the first tile, as "RGB;16B".
    return 16 if any("16" in str(tile[3]) for tile in getattr(picture, "tile", ())) else 8
  if picture.format == "TIFF":
    bits = getattr(picture, "tag_v2", {}).get(258, 8)
    return max(bits) if isinstance(bits, tuple) else int(bits)
  return 8
