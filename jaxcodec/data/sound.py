"""Sound as examples: crops of one length, of several, or short clips packed into rows."""

import dataclasses
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, NamedTuple

import numpy as np
import soundfile
import soxr

from jaxcodec.data import packing, sources as sources_lib
from jaxcodec.data.health import Health, reason_of
from jaxcodec.data.pipeline import Part
from jaxcodec.errors import CodecError

_MARGIN = (
  256  # Samples read before and after a crop that is resampled: the filter's reach and more.
)


class Packed(NamedTuple):
  """Clips one after another.

  Attributes:
    x: float32 [..., T, C].
    segments: int32 [..., T / hop], the clip, from 1, that a frame belongs to; 0 for none.
  """

  x: np.ndarray
  segments: np.ndarray


def signal_of(batch):
  """The sound or the pictures of a batch that may hold more, as `Packed` does."""
  return getattr(batch, "x", batch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sound:
  """Sound to learn from.

  Attributes:
    sources: folders, tars and prepared datasets, see `data.sources.Prepared`.
    weights: the share of each among the crops; () for the same.
    segment_seconds: of a crop, filled up to whole frames. A shorter file is followed by zeros.
    buckets: shorter lengths in seconds. A file is cropped to the longest of all lengths that it
      has, the crops of a step have one length, and the shorter it is the more rows make the step:
      as many times `batch_size` as it goes into `segment_seconds`, rounded.
    packed: whether whole files shorter than a segment share rows, as `Packed`.
    repeated: whether a shorter file is repeated, where zeros would follow it.
    gain_db: a gain is drawn from this range, then made smaller if samples would pass 1.
    peak_db: the largest sample is drawn from this range, 0 for 1, in place of a gain; () for none.
    num_threads: that read and decode.
    num_workers: processes that do, 0 for threads of this one alone.
    max_bad_share: share of files that may be unreadable.
  """

  sources: tuple[str, ...] = ()
  weights: tuple[float, ...] = ()
  segment_seconds: float
  buckets: tuple[float, ...] = ()
  packed: bool = False
  repeated: bool = False
  gain_db: tuple[float, float] = (0.0, 0.0)
  peak_db: tuple[float, ...] = ()
  num_threads: int = 4
  num_workers: int = 0
  max_bad_share: float = 0.01

  suffixes: ClassVar[frozenset[str]] = sources_lib.SOUNDS

  def segment_samples(self, codec) -> int:
    """Samples of a crop: a multiple of the codec's hop length."""
    return _whole_frames(self.segment_seconds, codec)

  def shape(self, codec) -> tuple[int, ...]:
    """Of the longest example."""
    return self.segment_samples(codec), codec.channels

  def check(self) -> None:
    if self.packed and self.buckets:
      raise ValueError("data.packed and data.buckets: one of them, as packed rows have one length")
    if any(not 0 < seconds < self.segment_seconds for seconds in self.buckets):
      raise ValueError(f"data.buckets={self.buckets} must be shorter than data.segment_seconds")
    if self.peak_db and (len(self.peak_db) != 2 or max(self.peak_db) > 0):
      raise ValueError(f"data.peak_db={self.peak_db}: two levels, neither above 0")
    if self.peak_db and self.gain_db != (0.0, 0.0):
      raise ValueError("data.peak_db and data.gain_db: one of them")

  def parts(self, source: Sequence[sources_lib.File], codec, health: Health) -> list[Part]:
    pieces = _measured(source, self.num_threads, health)
    if self.packed:
      return [Part(*_packed(source, pieces, self, codec, health))]
    lengths = sorted({*self.buckets, self.segment_seconds})
    places = [sum(p.frames / p.rate >= length for length in lengths[1:]) for p in pieces]
    found, seconds = [], []
    for place, length in enumerate(lengths):
      here = [piece for piece, own in zip(pieces, places, strict=True) if own == place]
      crops = Crops(source, here, length, health, self.repeated)
      seconds.append(len(crops) * length)
      shape = _whole_frames(length, codec), codec.sample_rate, codec.channels
      load, times = _Load(crops, self, shape), round(self.segment_seconds / length)
      found.append(Part(crops, load, times=times))
    total = sum(seconds)
    return [p._replace(share=s / total) for p, s in zip(found, seconds, strict=True)]


def _whole_frames(seconds: float, codec) -> int:
  frames = math.ceil(seconds * codec.sample_rate / codec.hop_length - 1e-9)
  return max(1, frames) * codec.hop_length


class _Piece(NamedTuple):
  """A file that crops are taken from.

  Attributes:
    file: its place in its source.
    frames, rate: of the file.
  """

  file: int
  frames: int
  rate: int


def _measured(source, num_threads: int, health: Health) -> list[_Piece]:
  """The files that can be read, by their headers; CodecError if there are none."""

  def measure(index: int) -> _Piece | None:
    file = source[index]
    try:
      info = soundfile.info(sources_lib.stream(file))
    except (soundfile.LibsndfileError, RuntimeError) as error:
      health.bad(file.name, reason_of(error))
      return None
    if info.frames < 1:
      health.bad(file.name, "no samples")
      return None
    health.good()
    return _Piece(index, info.frames, info.samplerate)

  with ThreadPoolExecutor(max(1, num_threads)) as pool:
    pieces = [piece for piece in pool.map(measure, range(len(source))) if piece]
  if not pieces:
    raise CodecError("not one file of the data can be read")
  return pieces


class Crops:
  """Crops of files: entry i is the file that the i-th crop's length of their sound lies in.

  Those that are shorter are repeated, or followed by zeros.
  """

  def __init__(self, source, pieces: list[_Piece], seconds: float, health: Health, repeated=False):
    self._source, self._pieces, self._health = source, pieces, health
    self._repeated = repeated
    self._ends = np.cumsum([max(1, int(p.frames / p.rate / seconds)) for p in pieces])

  def __len__(self) -> int:
    return int(self._ends[-1]) if self._pieces else 0

  def __getitem__(self, index) -> _Piece:
    return self._pieces[int(np.searchsorted(self._ends, index, side="right"))]

  def load(self, piece: _Piece, rng: np.random.Generator, samples: int, rate: int, channels: int):
    """A random crop float32 [samples, channels]; of another file if this one cannot be read."""
    for _ in range(100):
      crop = _read(self._source, piece, rng, (samples, rate, channels), self._health)
      if crop is not None:
        return np.resize(crop, (samples, channels)) if self._repeated else _filled(crop, samples)
      piece = self[rng.integers(len(self))]
    raise CodecError("a hundred files in a row cannot be read")


def _read(source, piece: _Piece, rng, shape, health: Health) -> np.ndarray | None:
  """A crop of `shape` samples, fewer of a shorter file, rate and channels; None, said and counted,
  if it cannot be read."""
  samples, rate, channels = shape
  file = source[piece.file]
  try:
    crop = _crop(file, piece, rng, samples, rate)
  except (soundfile.LibsndfileError, RuntimeError) as error:
    health.bad(file.name, reason_of(error))
    return None
  if not np.isfinite(crop).all():
    health.bad(file.name, "samples that are not finite")
    return None
  return _mixed(crop, channels)


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
  return x[:samples]


def _filled(x: np.ndarray, samples: int) -> np.ndarray:
  return np.pad(x, ((0, samples - len(x)), (0, 0)))


def _mixed(x: np.ndarray, channels: int) -> np.ndarray:
  if x.shape[1] == channels:
    return x
  if channels == 1:
    return x.mean(axis=1, keepdims=True)
  return np.repeat(x[:, :1], channels, axis=1)


class _Load:
  """Draws a crop and its level; an object and not a closure, as workers unpickle it."""

  def __init__(self, crops: Crops, config: Sound, shape: tuple[int, int, int]):
    self._crops, self._config, self._shape = crops, config, shape

  def __call__(self, piece: _Piece, rng: np.random.Generator) -> np.ndarray:
    return _levelled(self._crops.load(piece, rng, *self._shape), rng, self._config)


def _levelled(x: np.ndarray, rng: np.random.Generator, config: Sound):
  largest = max(np.abs(x).max(), 1e-3)
  if config.peak_db:
    low, high = config.peak_db
    return x * np.float32(10 ** (rng.uniform(low, high) / 20) / largest)
  if config.gain_db == (0.0, 0.0):
    return x
  gain = 10 ** (rng.uniform(*config.gain_db) / 20)
  return x * np.float32(min(gain, 1 / largest))


def _packed(source, pieces: list[_Piece], config: Sound, codec, health: Health):
  """`(rows, load)`: each row a tuple of files that fit, a longer file alone in several."""
  most = config.segment_samples(codec) // codec.hop_length
  sizes = [
    min(most, math.ceil(p.frames / p.rate * codec.sample_rate / codec.hop_length)) for p in pieces
  ]
  rows = [tuple(pieces[i] for i in row) for row in packing.best_fit(sizes, most)]
  crops = [int(sum(p.frames / p.rate for p in row) / config.segment_seconds) for row in rows]
  rows = [row for row, n in zip(rows, crops, strict=True) for _ in range(max(1, n))]
  return rows, _Pack(source, rows, config, codec, health)


class _Pack:
  """Draws the order, the levels and, of files longer than a row, the crop of a row of files."""

  def __init__(self, source, rows: list[tuple[_Piece, ...]], config: Sound, codec, health: Health):
    self._source, self._rows, self._health, self._config = source, rows, health, config
    self._samples, self._hop = config.segment_samples(codec), codec.hop_length
    self._rate, self._channels = codec.sample_rate, codec.channels

  def __call__(self, row: tuple[_Piece, ...], rng: np.random.Generator) -> Packed:
    for _ in range(100):
      clips = [
        clip for i in rng.permutation(len(row)) if (clip := self._clip(row[i], rng)) is not None
      ]
      if clips:
        return self._joined(clips)
      row = self._rows[rng.integers(len(self._rows))]
    raise CodecError("a hundred rows of files that cannot be read")

  def _clip(self, piece: _Piece, rng: np.random.Generator) -> np.ndarray | None:
    samples = min(self._samples, math.ceil(piece.frames / piece.rate * self._rate))
    x = _read(self._source, piece, rng, (samples, self._rate, self._channels), self._health)
    if x is None:
      return None
    x = _filled(x, -(-samples // self._hop) * self._hop)
    return _levelled(x, rng, self._config)

  def _joined(self, clips: list[np.ndarray]) -> Packed:
    x = np.concatenate(clips)
    lengths = [len(clip) // self._hop for clip in clips]
    segments = np.repeat(np.arange(1, len(clips) + 1, dtype=np.int32), lengths)
    missing = self._samples - len(x)
    return Packed(np.pad(x, ((0, missing), (0, 0))), np.pad(segments, (0, missing // self._hop)))
