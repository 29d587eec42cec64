"""Crops of sound as batches, by Grain: a batch is a function of the seed and the step alone.

So a run goes on where it stopped without a saved position, any number of processes see the same
global batches, each its rows of them, and neither threads nor workers change what comes.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import soundfile
import soxr

from jaxcodec.data import sources as sources_lib
from jaxcodec.data.health import Health, reason_of
from jaxcodec.errors import CodecError

_MARGIN = (
  256  # Samples read before and after a crop that is resampled: the filter's reach and more.
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sound:
  """Sound to learn from.

  Attributes:
    sources: folders, tars and prepared datasets.
    weights: the share of each among the crops; () for the same.
    segment_seconds: of a crop, filled up to whole frames. A shorter file is followed by zeros.
    gain_db: a gain is drawn from this range, then made smaller if samples would pass 1.
    num_threads: that read and decode.
    num_workers: processes that do, 0 for threads of this one alone.
    max_bad_share: share of files that may be unreadable.
  """

  sources: tuple[str, ...] = ()
  weights: tuple[float, ...] = ()
  segment_seconds: float
  gain_db: tuple[float, float] = (0.0, 0.0)
  num_threads: int = 4
  num_workers: int = 0
  max_bad_share: float = 0.01

  def segment_samples(self, codec) -> int:
    """Samples of a crop: a multiple of the codec's hop length."""
    frames = math.ceil(self.segment_seconds * codec.sample_rate / codec.hop_length - 1e-9)
    return max(1, frames) * codec.hop_length


@dataclasses.dataclass(frozen=True)
class _Piece:
  """A file that crops are taken from.

  Attributes:
    index: in its source.
    frames, rate: of the file.
  """

  index: int
  frames: int
  rate: int


class Crops:
  """Crops of a source: entry i is a crop of the file that the i-th part of its sound lies in."""

  def __init__(self, source: Sequence[sources_lib.File], config: Sound, health: Health):
    self._source, self._health = source, health
    with ThreadPoolExecutor(max(1, config.num_threads)) as pool:
      pieces = [piece for piece in pool.map(self._measured, range(len(source))) if piece]
    if not pieces:
      raise CodecError("not one file of the data can be read")
    self._pieces = pieces
    parts = [max(1, int(p.frames / p.rate / config.segment_seconds)) for p in pieces]
    self._ends = np.cumsum(parts)

  def _measured(self, index: int) -> _Piece | None:
    file = self._source[index]
    try:
      info = soundfile.info(sources_lib.stream(file))
    except (soundfile.LibsndfileError, RuntimeError) as error:
      self._health.bad(file.name, reason_of(error))
      return None
    if info.frames < 1:
      self._health.bad(file.name, "no samples")
      return None
    self._health.good()
    return _Piece(index, info.frames, info.samplerate)

  def __len__(self) -> int:
    return int(self._ends[-1])

  def __getitem__(self, index) -> _Piece:
    return self._pieces[int(np.searchsorted(self._ends, index, side="right"))]

  def load(self, piece: _Piece, rng: np.random.Generator, samples: int, rate: int, channels: int):
    """A random crop float32 [samples, channels]; of another file if this one cannot be read."""
    for _ in range(100):
      file = self._source[piece.index]
      try:
        crop = _crop(file, piece, rng, samples, rate)
      except (soundfile.LibsndfileError, RuntimeError) as error:
        self._health.bad(file.name, reason_of(error))
      else:
        if np.isfinite(crop).all():
          return _mixed(crop, channels)
        self._health.bad(file.name, "samples that are not finite")
      piece = self[rng.integers(len(self))]
    raise CodecError(f"a hundred files in a row cannot be read, the last of them {file.name}")


def _crop(file, piece: _Piece, rng: np.random.Generator, samples: int, rate: int) -> np.ndarray:
  needed = samples if piece.rate == rate else math.ceil(samples * piece.rate / rate)
  margin = 0 if piece.rate == rate else _MARGIN
  start = int(rng.integers(0, max(1, piece.frames - needed + 1)))
  before = min(margin, start)
  with soundfile.SoundFile(sources_lib.stream(file)) as sound:
    sound.seek(start - before)
    x = sound.read(before + needed + margin, dtype="float32", always_2d=True)
  if piece.rate != rate:
    x = soxr.resample(x, piece.rate, rate, quality="HQ")
    skip = round(before * rate / piece.rate)
    x = x[skip:]
  x = x[:samples]
  return np.pad(x, ((0, samples - len(x)), (0, 0)))


def _mixed(x: np.ndarray, channels: int) -> np.ndarray:
  if x.shape[1] == channels:
    return x
  if channels == 1:
    return x.mean(axis=1, keepdims=True)
  return np.repeat(x[:, :1], channels, axis=1)


class _Load:
  """Draws a crop and its gain; an object and not a closure, as workers unpickle it."""

  def __init__(self, crops: Crops, config: Sound, samples: int, rate: int, channels: int):
    self._crops, self._gain_db = crops, config.gain_db
    self._shape = samples, rate, channels

  def __call__(self, piece: _Piece, rng: np.random.Generator) -> np.ndarray:
    x = self._crops.load(piece, rng, *self._shape)
    if self._gain_db == (0.0, 0.0):
      return x
    gain = 10 ** (rng.uniform(*self._gain_db) / 20)
    return x * np.float32(min(gain, 1 / max(np.abs(x).max(), 1e-3)))


class _Rows:
  """The rows of global batches that a process has: a contiguous part of each."""

  def __init__(self, rows, batch_size: int, process: int, processes: int, num_steps: int):
    self._rows, self._batch, self._local = rows, batch_size, batch_size // processes
    self._first, self._length = process * self._local, num_steps * self._local

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index):
    step, row = divmod(int(index), self._local)
    return self._rows[step * self._batch + self._first + row]


def dataset(
  config: Sound,
  codec,
  *,
  batch_size: int,
  num_steps: int,
  seed: int,
  process: int = 0,
  processes: int = 1,
):
  """A `grain.MapDataset` of this process's rows [B / processes, T, C] of each step's batch.

  Raises:
    CodecError: for a source that is missing, empty, or has too many files that cannot be read.
    ValueError: for weights that do not fit the sources, or a batch that processes do not divide.
  """
  import grain

  if not config.sources:
    raise ValueError("data.sources is empty: name a folder, a tar or a prepared dataset")
  weights = config.weights or (1.0,) * len(config.sources)
  if len(weights) != len(config.sources) or min(weights) <= 0:
    raise ValueError(f"data.weights={weights} for {len(config.sources)} sources")
  if batch_size % processes:
    raise ValueError(f"batch_size={batch_size} does not divide over {processes} processes")
  health = Health(config.max_bad_share)
  samples, parts = config.segment_samples(codec), []
  for i, path in enumerate(config.sources):
    crops = Crops(sources_lib.open_source(path, sources_lib.SOUNDS), config, health)
    load = _Load(crops, config, samples, codec.sample_rate, codec.channels)
    part = grain.MapDataset.source(crops).seed(seed + i).shuffle().repeat()
    parts.append(part.random_map(load))
  total = sum(weights)
  rows = parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, [w / total for w in weights])
  local = _Rows(rows, batch_size, process, processes, num_steps)
  return grain.MapDataset.source(local).batch(batch_size // processes)


def batches(config: Sound, data, start: int = 0) -> Iterator[np.ndarray]:
  """The batches of `dataset` from step `start` on, read ahead by threads or workers."""
  import grain

  options = grain.ReadOptions(num_threads=config.num_threads, prefetch_buffer_size=8)
  ahead = data[start:].to_iter_dataset(options)
  if config.num_workers:
    ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(num_workers=config.num_workers))
  return iter(ahead)
