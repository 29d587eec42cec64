"""Pictures as examples: crops of one size, float32 [H, W, C] in [-1, 1]."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
from PIL import Image, ImageOps

from jaxcodec.data import sources as sources_lib
from jaxcodec.data.health import Health, reason_of
from jaxcodec.data.pipeline import Part
from jaxcodec.errors import CodecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures:
  """Pictures to learn from.

  Attributes:
    sources, weights, num_threads, num_workers, max_bad_share: see `data.sound.Sound`.
    size: height and width of a crop.
    short_side: pixels that a picture's shorter side is made before it is cropped; 0 to leave it.
      One that is smaller than a crop is made as large.
    flip: whether half of the crops are mirrored, left to right.
    channels: 3 for RGB, 1 for grey.
  """

  sources: tuple[str, ...] = ()
  weights: tuple[float, ...] = ()
  size: tuple[int, int]
  short_side: int = 0
  flip: bool = True
  channels: int = 3
  num_threads: int = 4
  num_workers: int = 0
  max_bad_share: float = 0.01

  suffixes: ClassVar[frozenset[str]] = sources_lib.PICTURES

  def shape(self, codec) -> tuple[int, ...]:
    del codec  # A crop has the same shape for every codec.
    return *self.size, self.channels

  def check(self) -> None:
    if min(self.size) < 1 or self.short_side < 0 or self.channels not in (1, 3):
      raise ValueError(
        f"data.size={self.size} data.short_side={self.short_side} data.channels={self.channels}: "
        "sizes in pixels, and 1 or 3 channels"
      )

  def parts(self, source: Sequence[sources_lib.File], codec, health: Health) -> list[Part]:
    del codec

    def opens(index: int) -> bool:
      file = source[index]
      try:
        # Reads the header alone.
        with Image.open(sources_lib.stream(file)):
          health.good()
          return True
      except Exception as error:  # Of any kind: Pillow's decoders raise what they like.
        health.bad(file.name, reason_of(error))
        return False

    with ThreadPoolExecutor(max(1, self.num_threads)) as pool:
      good = [i for i, found in enumerate(pool.map(opens, range(len(source)))) if found]
    if not good:
      raise CodecError("not one file of the data can be read")
    return [Part(good, _Load(source, good, self, health))]


class _Load:
  """Draws a crop; an object and not a closure, as workers unpickle it."""

  def __init__(self, source, entries: list[int], config: Pictures, health: Health):
    self._source, self._entries, self._config, self._health = source, entries, config, health

  def __call__(self, index: int, rng: np.random.Generator) -> np.ndarray:
    config = self._config
    for _ in range(100):
      file = self._source[index]
      try:
        picture = decode(file, config.channels)
      except Exception as error:  # Of any kind: Pillow's decoders raise what they like.
        self._health.bad(file.name, reason_of(error))
      else:
        return scaled(crop(picture, rng, config.size, config.short_side, config.flip))
      index = self._entries[rng.integers(len(self._entries))]
    raise CodecError(f"a hundred files in a row cannot be read, the last of them {file.name}")


def decode(file: sources_lib.File, channels: int) -> Image.Image:
  """A picture the right way up, in RGB or grey of 8 bits."""
  with Image.open(sources_lib.stream(file)) as stored:
    picture = ImageOps.exif_transpose(stored)
    if picture.mode.startswith("I;16"):
      # Pillow would cut off what lies above 255.
      picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture.convert("RGB" if channels == 3 else "L")


def crop(
  picture: Image.Image,
  rng: np.random.Generator,
  size: tuple[int, int],
  short_side: int,
  flip: bool,
) -> np.ndarray:
  """A random crop uint8 [H, W, C]."""
  height, width = size
  new = fitted((picture.height, picture.width), size, short_side)
  if new != (picture.height, picture.width):
    picture = picture.resize(new[::-1], Image.Resampling.BICUBIC)
  top, left = place(rng, new, size)
  x = np.asarray(picture.crop((left, top, left + width, top + height)))
  x = x.reshape(height, width, -1)
  return x[:, ::-1] if flip and rng.random() < 0.5 else x


def fitted(old: tuple[int, int], size: tuple[int, int], short_side: int) -> tuple[int, int]:
  """Height and width to give a picture of `old` ones, so that a crop of `size` lies within."""
  scale = short_side / min(old) if short_side else 1.0
  scale = max(scale, size[0] / old[0], size[1] / old[1])
  return max(size[0], round(old[0] * scale)), max(size[1], round(old[1] * scale))


def place(rng: np.random.Generator, old: tuple[int, int], size: tuple[int, int]):
  """Where a crop starts: top and left."""
  return tuple(int(rng.integers(0, a - b + 1)) for a, b in zip(old, size, strict=True))


def scaled(x: np.ndarray) -> np.ndarray:
  """Bytes as float32 in [-1, 1]."""
  return x.astype(np.float32) / 127.5 - 1
