"""JPEG, WebP, AVIF and JPEG XL as Pillow has them: what codecs of pictures are measured beside.

The bytes are those of the whole file. JPEG, WebP and AVIF halve the colours' resolution, as their
programs do unless told otherwise; JPEG's Huffman tables are made for the picture.
"""

import dataclasses
import functools
import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, features


@dataclasses.dataclass(frozen=True, eq=False)
class CodedPicture:
  """A picture that went through bytes.

  Attributes:
    pixels: what came back, uint8 `[H, W, 3]`.
    num_bytes: size of the file between.
    encode_seconds, decode_seconds: from pixels to the file's bytes, and back.
  """

  pixels: np.ndarray
  num_bytes: int
  encode_seconds: float
  decode_seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class PictureSystem:
  """Anything that makes a picture into a file and back, at one setting.

  Attributes:
    name: of the codec or format.
    setting: its quality, a number that means something to it alone; None if there is but one.
    code: from uint8 `[H, W, 3]`.
  """

  name: str
  setting: float | None
  code: Callable[[np.ndarray], CodedPicture]


# Format, Pillow's name, settings from some 0.15 to 2 bits a pixel, options.
_FORMATS: tuple[tuple[str, str, tuple[int, ...], dict[str, Any]], ...] = (
  ("jpeg", "JPEG", (5, 10, 20, 35, 55, 75, 88, 93), {"optimize": True}),
  ("webp", "WEBP", (1, 10, 30, 50, 70, 85, 92, 96), {"method": 6}),
  ("avif", "AVIF", (15, 30, 42, 53, 63, 73, 82, 90), {}),
  ("jpegxl", "JXL", (5, 15, 30, 45, 60, 75, 85, 92), {}),
)


def find() -> tuple[list[PictureSystem], list[str]]:
  """The formats at hand at each of their settings, and a line for each that is not."""
  found, missing = [], []
  for name, kind, settings, options in _FORMATS:
    if not _installed(kind):
      missing.append(f"{name} is left out: Pillow has no {kind} here")
      continue
    found += [
      PictureSystem(name, setting, functools.partial(code, kind, setting, options))
      for setting in settings
    ]
  return found, missing


def code(kind: str, setting: int, options: dict[str, Any], pixels: np.ndarray) -> CodedPicture:
  """One picture as a file of Pillow's format `kind` at its quality, and back."""
  file, start = io.BytesIO(), time.perf_counter()
  Image.fromarray(pixels).save(file, kind, quality=setting, **options)
  middle = time.perf_counter()
  with Image.open(io.BytesIO(file.getvalue())) as stored:
    back = np.asarray(stored.convert("RGB"))
  end = time.perf_counter()
  return CodedPicture(back, len(file.getvalue()), middle - start, end - middle)


def jpeg_of(pixels: np.ndarray, num_bytes: int) -> tuple[CodedPicture, int]:
  """The best JPEG of at most `num_bytes`, or the smallest there is; and its quality."""
  low, high = 1, 95
  best = code("JPEG", low, {"optimize": True}, pixels)
  while low < high:
    middle = (low + high + 1) // 2
    found = code("JPEG", middle, {"optimize": True}, pixels)
    if found.num_bytes <= num_bytes:
      low, best = middle, found
    else:
      high = middle - 1
  return best, low


def _installed(kind: str) -> bool:
  if kind == "JXL":
    Image.init()
    return kind in Image.SAVE
  names = {"JPEG": "jpg", "WEBP": "webp", "AVIF": "avif"}
  return bool(features.check(names[kind]))
