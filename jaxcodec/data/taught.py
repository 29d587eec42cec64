"""Sound with what frozen models say of it, from files that were written once."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxcodec.data import recordings, sources as sources_lib
from jaxcodec.data.health import Health
from jaxcodec.data.pipeline import Part
from jaxcodec.errors import CodecError


class Taught(NamedTuple):
  """A clip and its teachers' features.

  Attributes:
    x: float32 [..., T, C].
    features: float32 [..., teachers, N, D].
    there: bool [..., teachers, N], the frames that a teacher has.
  """

  x: Any
  features: Any
  there: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaughtSound:
  """Clips to learn from: the first `segment_seconds` of files, zeros after the end of shorter ones.

  Attributes:
    teachers: folders, one for each; each has `CLIP.npy` for a file `CLIP.flac`: features [N, D], or
      [1, N, D] as the source's program writes them, of the same part of the sound. A teacher that
      reads text has a row for each token, none of padding. Files that a teacher lacks are left out.
    frames, features: N at most, and D.
    sources, weights, num_threads, num_workers, max_bad_share: see `data.sound.Sound`.
  """

  sources: tuple[str, ...] = ()
  teachers: tuple[str, ...] = ()
  segment_seconds: float
  frames: int
  features: int
  weights: tuple[float, ...] = ()
  num_threads: int = 4
  num_workers: int = 0
  max_bad_share: float = 0.01

  suffixes: ClassVar[frozenset[str]] = sources_lib.SOUNDS
  num_teachers: ClassVar[int] = 2

  def samples(self, codec) -> int:
    frames = round(self.segment_seconds * codec.sample_rate / codec.hop_length)
    return max(1, frames) * codec.hop_length

  def shape(self, codec) -> Taught:
    """Of an example; the shapes of its parts."""
    features = self.num_teachers, self.frames, self.features
    return Taught((self.samples(codec), codec.channels), features, features[:2])

  def check(self) -> None:
    if len(self.teachers) != self.num_teachers:
      raise ValueError(f"data.teachers={self.teachers}: name {self.num_teachers} folders")
    if self.segment_seconds <= 0 or self.frames < 1 or self.features < 1:
      raise ValueError("data.segment_seconds, data.frames and data.features must be positive")

  def parts(self, source: Sequence[sources_lib.File], codec, health: Health) -> list[Part]:
    names = (pathlib.PurePath(source[i].name).stem for i in range(len(source)))
    folders = [pathlib.Path(folder) for folder in self.teachers]
    entries = [
      (i, tuple(folder / f"{name}.npy" for folder in folders)) for i, name in enumerate(names)
    ]
    entries = [(i, paths) for i, paths in entries if all(path.is_file() for path in paths)]
    if not entries:
      raise ValueError(f"data.teachers={self.teachers} have features of no file of the source")
    return [Part(entries, _Load(source, self, codec, health))]


class _Load:
  """Reads a clip and its features; an object and not a closure, as workers unpickle it."""

  def __init__(self, source, config: TaughtSound, codec, health: Health):
    self._source, self._config, self._health = source, config, health
    self._rate, self._shape = codec.sample_rate, config.shape(codec)

  def __call__(self, entry, rng: np.random.Generator) -> Taught:
    del rng  # Features belong to the clip's start.
    index, paths = entry
    size, channels = self._shape.x
    features = np.zeros(self._shape.features, np.float32)
    there = np.zeros(self._shape.there, bool)
    for i, path in enumerate(paths):
      found = read_features(path, self._config.features)[: self._config.frames]
      features[i, : len(found)], there[i, : len(found)] = found, True
    x = recordings.read(self._source[index], self._rate, self._health)
    if x is None:
      # Silence, of which nothing is said.
      x, there = np.zeros(1, np.float32), np.zeros_like(there)
    x = np.pad(x[:size], (0, max(0, size - len(x))))
    return Taught(np.repeat(x[:, None], channels, axis=1), features, there)


def read_features(path: pathlib.Path, width: int) -> np.ndarray:
  """Features [N, width] of a file.

  Raises:
    CodecError: if it is no such file.
  """
  try:
    found = np.load(path, allow_pickle=False)
  except (OSError, ValueError) as error:
    raise CodecError(f"{path} holds no features: {error}") from None
  found = found[0] if found.ndim == 3 and len(found) == 1 else found
  if found.ndim != 2 or found.shape[1] != width or not np.isfinite(found).all():
    raise CodecError(f"{path} has features {found.shape}, [frames, {width}] of finite ones needed")
  return found.astype(np.float32)
