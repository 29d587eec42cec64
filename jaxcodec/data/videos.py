"""Videos as examples: frames that follow each other, float32 [F, H, W, C] in [-1, 1]."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, NamedTuple

import av
import numpy as np

from jaxcodec.data import pictures, sources as sources_lib
from jaxcodec.data.health import Health, reason_of
from jaxcodec.data.pipeline import Part
from jaxcodec.errors import CodecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Videos:
  """Videos to learn from.

  Attributes:
    sources, weights, num_threads, num_workers, max_bad_share: see `data.sound.Sound`.
    size, short_side, flip: see `data.pictures.Pictures`; one crop for all frames of an example.
    frames: of an example; a shorter video repeats its last one.
    every: of so many frames one is taken.
  """

  sources: tuple[str, ...] = ()
  weights: tuple[float, ...] = ()
  frames: int
  size: tuple[int, int]
  every: int = 1
  short_side: int = 0
  flip: bool = True
  num_threads: int = 4
  num_workers: int = 0
  max_bad_share: float = 0.01

  suffixes: ClassVar[frozenset[str]] = sources_lib.VIDEOS

  def shape(self, codec) -> tuple[int, ...]:
    del codec  # A crop has the same shape for every codec.
    return self.frames, *self.size, 3

  def check(self) -> None:
    if min(*self.size, self.frames, self.every) < 1 or self.short_side < 0:
      raise ValueError(
        f"data.size={self.size} data.frames={self.frames} data.every={self.every}: at least 1"
      )

  def parts(self, source: Sequence[sources_lib.File], codec, health: Health) -> list[Part]:
    del codec
    clips = Clips(source, self, health)
    return [Part(clips, _Load(source, clips, self, health))]


class _Video(NamedTuple):
  """A file that examples are taken from: when its frames are shown, in units of its stream."""

  file: int
  times: np.ndarray


class Clips:
  """Entry i is the video that the i-th example's length of all frames lies in."""

  def __init__(self, source: Sequence[sources_lib.File], config: Videos, health: Health):
    self._source, self._health = source, health
    with ThreadPoolExecutor(max(1, config.num_threads)) as pool:
      videos = [video for video in pool.map(self._measured, range(len(source))) if video]
    if not videos:
      raise CodecError("not one file of the data can be read")
    self._videos = videos
    length = config.frames * config.every
    self._ends = np.cumsum([max(1, len(video.times) // length) for video in videos])

  def _measured(self, index: int) -> _Video | None:
    file = self._source[index]
    try:
      with av.open(sources_lib.stream(file), "r") as container:
        # Packets are not decoded, so a long film takes no longer than reading it.
        times = sorted(p.pts for p in container.demux(video=0) if p.pts is not None)
    except (av.FFmpegError, IndexError, ValueError) as error:
      self._health.bad(file.name, reason_of(error))
      return None
    if not times:
      self._health.bad(file.name, "no frames")
      return None
    self._health.good()
    return _Video(index, np.array(times))

  def __len__(self) -> int:
    return int(self._ends[-1])

  def __getitem__(self, index) -> _Video:
    return self._videos[int(np.searchsorted(self._ends, index, side="right"))]


class _Load:
  """Draws frames and their crop; an object and not a closure, as workers unpickle it."""

  def __init__(self, source, clips: Clips, config: Videos, health: Health):
    self._source, self._clips, self._config, self._health = source, clips, config, health

  def __call__(self, video: _Video, rng: np.random.Generator) -> np.ndarray:
    for _ in range(100):
      file = self._source[video.file]
      try:
        x = self._frames(file, video, rng)
      except (av.FFmpegError, IndexError, ValueError) as error:
        self._health.bad(file.name, reason_of(error))
      else:
        if self._config.flip and rng.random() < 0.5:
          x = x[:, :, ::-1]
        return pictures.scaled(x)
      video = self._clips[rng.integers(len(self._clips))]
    raise CodecError(f"a hundred files in a row cannot be read, the last of them {file.name}")

  def _frames(self, file, video: _Video, rng: np.random.Generator) -> np.ndarray:
    config = self._config
    span = (config.frames - 1) * config.every + 1
    start = int(rng.integers(0, max(1, len(video.times) - span + 1)))
    wanted = list(video.times[start : start + span : config.every])
    found: list[np.ndarray] = []
    with av.open(sources_lib.stream(file), "r") as container:
      stream = container.streams.video[0]
      container.seek(int(wanted[0]), stream=stream, backward=True)
      for frame in container.decode(stream):
        # Frames from the key frame before are passed over.
        if frame.pts is None or frame.pts < wanted[len(found)]:
          continue
        if not found:
          old = frame.height, frame.width
          new = pictures.fitted(old, config.size, config.short_side)
          top, left = pictures.place(rng, new, config.size)
        bottom, right = top + config.size[0], left + config.size[1]
        whole = frame.to_ndarray(format="rgb24", height=new[0], width=new[1])
        found.append(whole[top:bottom, left:right])
        if len(found) == len(wanted):
          break
    if not found:
      raise ValueError("no frame where the index has one")
    return np.stack(found + found[-1:] * (config.frames - len(found)))
