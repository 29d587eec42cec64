"""Codecs over a folder of pictures: code each to real bytes, decode, measure, compare the curves.

Pictures are RGB of 8 bits before and after, as files have them: what a codec gives beyond white
and black is clipped and rounded before it is measured.
"""

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jaxcodec import fitted_picture, metrics, picture_file
from jaxcodec.errors import CodecError
from jaxcodec.image import files
from jaxcodec.image.c3_fit import Fit
from jaxcodec.image.latent_codec import LatentCodec
from jaxcodec.metrics.picture import SMALLEST, decibels
from jaxcodec.picture_baselines import CodedPicture, PictureSystem

QUALITIES = (0, 15, 30, 45, 60, 75, 90, 100)
FITTED_QUALITIES = (25, 50, 75)  # Each takes a fit.
SUFFIXES = frozenset((*files.FORMATS, ".jpg", ".jpeg", ".avif"))

Perceptual = Callable[[np.ndarray, np.ndarray], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureMeasures:
  """What a system made of pictures; what is not defined is `nan`.

  Attributes:
    system, setting: as of `PictureSystem`.
    bits_per_pixel: of the whole file.
    psnr: dB, over RGB.
    ms_ssim: at most 1; `nan` below 161 pixels a side.
    perceptual: of the caller's measure.
    encode_seconds, decode_seconds: a picture.
  """

  system: str
  setting: float | None
  bits_per_pixel: float
  psnr: float
  ms_ssim: float
  perceptual: float
  encode_seconds: float
  decode_seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureScore(PictureMeasures):
  """One file through one system.

  Attributes:
    file: path of the picture.
    num_bytes: size of its file.
  """

  file: str
  num_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureMeans(PictureMeasures):
  """Means over all files through one system, each file counting alike.

  Attributes:
    files: how many.
  """

  files: int


@dataclasses.dataclass(frozen=True)
class PictureEvaluation:
  """What `run` found.

  Attributes:
    means: one for each system, in their order.
    files: one for each file and system.
    skipped: path and reason of each file that could not be read.
  """

  means: tuple[PictureMeans, ...]
  files: tuple[PictureScore, ...]
  skipped: tuple[tuple[str, str], ...]

  def curve(self, system: str, measure: str) -> tuple[list[float], list[float]]:
    """Bits a pixel and a measure at each setting of a system; MS-SSIM in decibels."""
    rows = [row for row in self.means if row.system == system]
    values = [getattr(row, measure) for row in rows]
    if measure == "ms_ssim":
      values = [decibels(value) for value in values]
    return [row.bits_per_pixel for row in rows], values

  def bd_rates(self, anchor: str) -> dict[str, dict[str, float]]:
    """By system and measure, `metrics.bd_rate` against `anchor` in percent, `nan` if undefined."""
    names = dict.fromkeys(row.system for row in self.means if row.system != anchor)
    measures = ("psnr", "ms_ssim")
    return {name: {each: self._bd_rate(anchor, name, each) for each in measures} for name in names}

  def _bd_rate(self, anchor: str, system: str, measure: str) -> float:
    try:
      return metrics.bd_rate(*self.curve(anchor, measure), *self.curve(system, measure))
    except ValueError:  # A single setting, or pictures too small for the measure.
      return math.nan

  def to_json(self) -> dict[str, Any]:
    """Values for `json.dumps`; what is not a finite number is None."""
    return {
      "means": [_finite(dataclasses.asdict(row)) for row in self.means],
      "files": [_finite(dataclasses.asdict(row)) for row in self.files],
      "skipped": [{"file": file, "reason": reason} for file, reason in self.skipped],
    }


def picture_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files below `folder` whose suffix is that of a picture's format, by name."""
  found = sorted(folder.rglob("*"))
  return [path for path in found if path.suffix.lower() in SUFFIXES and path.is_file()]


def codec_systems(
  name: str, codec: LatentCodec, qualities: Sequence[float] | None = None, refine: int = 0
) -> list[PictureSystem]:
  """A codec at each of some qualities; at its one if it has no more.

  Args:
    refine: steps that move the latents of each picture, see `image.refine.refined`; they count as
      encoding.
  """
  wanted: Sequence[float | None] = [None]
  if codec.module.levels:
    wanted = QUALITIES if qualities is None else qualities
  warm: set[tuple[int, ...]] = set()
  return [
    PictureSystem(name, quality, functools.partial(_code, codec, quality, refine, warm))
    for quality in wanted
  ]


def fitted_systems(
  qualities: Sequence[float] | None = None,
  steps: int | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> list[PictureSystem]:
  """C3, whose networks are fitted to each picture: minutes each, which count as encoding.

  Args:
    qualities, steps: as of `fitted_picture.fit_of`; None for three qualities.
    progress: told how many steps of a fit are done, and of how many.

  Raises:
    ValueError: if one is out of range.
  """
  return [
    PictureSystem(
      fitted_picture.CODEC,
      quality,
      functools.partial(_fit, fitted_picture.fit_of(quality, steps), progress),
    )
    for quality in (FITTED_QUALITIES if qualities is None else qualities)
  ]


def run(
  systems: Sequence[PictureSystem],
  sources: Iterable[pathlib.Path],
  perceptual: Perceptual | None = None,
) -> PictureEvaluation:
  """Sends every picture through every system.

  Args:
    perceptual: another measure of uint8 `[H, W, 3]`, original and decoded.

  Raises:
    CodecError: if no source can be read.
  """
  scores: list[list[PictureScore]] = [[] for _ in systems]
  skipped = []
  for source in sources:
    try:
      pixels = files.read_picture(source, str(source)).samples[0]
    except CodecError as error:
      skipped.append((str(source), str(error)))
      continue
    for found, system in zip(scores, systems, strict=True):
      found.append(_score(system, str(source), pixels, system.code(pixels), perceptual))
  if not any(scores):
    first = f"; the first: {skipped[0][1]}" if skipped else ""
    raise CodecError(f"none of {len(skipped)} pictures can be read{first}")
  return PictureEvaluation(
    tuple(map(_means, scores)), tuple(row for rows in scores for row in rows), tuple(skipped)
  )


def _code(
  codec: LatentCodec,
  quality: float | None,
  refine: int,
  warm: set[tuple[int, ...]],
  pixels: np.ndarray,
) -> CodedPicture:
  x = pixels[None].astype(np.float32) / 127.5 - 1
  # The first time compiles, which many steps do not show.
  for _ in range(1 if refine or pixels.shape in warm else 2):
    start = time.perf_counter()
    data = picture_file.compress(codec, x, quality=quality, refine=refine)
    middle = time.perf_counter()
    y = picture_file.decompress(data, codec, max_memory=2**40)
    end = time.perf_counter()
  warm.add(pixels.shape)
  return CodedPicture(files.to_bytes(y, 3), len(data), middle - start, end - middle)


def _fit(fit: Fit, progress: Callable[[int, int], None] | None, pixels: np.ndarray) -> CodedPicture:
  total = fit.noise_steps + fit.rounded_steps
  start = time.perf_counter()
  (data,) = fitted_picture.compress_many(
    pixels[None], fit, progress=progress and (lambda done: progress(done, total))
  )
  middle = time.perf_counter()
  y = picture_file.decompress(data, max_memory=2**40)
  end = time.perf_counter()
  return CodedPicture(files.to_bytes(y, 3), len(data), middle - start, end - middle)


def _score(
  system: PictureSystem,
  file: str,
  pixels: np.ndarray,
  coded: CodedPicture,
  perceptual: Perceptual | None,
) -> PictureScore:
  large = min(pixels.shape[:2]) >= SMALLEST
  return PictureScore(
    system=system.name,
    setting=system.setting,
    file=file,
    num_bytes=coded.num_bytes,
    bits_per_pixel=8 * coded.num_bytes / (pixels.shape[0] * pixels.shape[1]),
    psnr=metrics.psnr(pixels, coded.pixels),
    ms_ssim=metrics.ms_ssim(pixels, coded.pixels) if large else math.nan,
    perceptual=math.nan if perceptual is None else float(perceptual(pixels, coded.pixels)),
    encode_seconds=coded.encode_seconds,
    decode_seconds=coded.decode_seconds,
  )


def _means(scores: Sequence[PictureScore]) -> PictureMeans:
  names = [field.name for field in dataclasses.fields(PictureMeasures)][2:]
  means = {name: _mean([getattr(score, name) for score in scores]) for name in names}
  first = scores[0]
  return PictureMeans(system=first.system, setting=first.setting, files=len(scores), **means)


def _mean(values: Sequence[float]) -> float:
  defined = [value for value in values if not math.isnan(value)]
  return float(np.mean(defined)) if defined else math.nan


def _finite(row: dict[str, Any]) -> dict[str, Any]:
  return {
    name: None if isinstance(value, float) and not math.isfinite(value) else value
    for name, value in row.items()
  }
