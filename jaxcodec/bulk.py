"""Many signals of any lengths through a codec, on all of a process's devices at once.

Signals of like length share a batch, whose rows lie over the devices; a batch's length is one of a
few, so that few compilations serve all.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from jaxcodec import chunked, codec as codec_lib
from jaxcodec.audio.files import SoundReader
from jaxcodec.codec import Codec
from jaxcodec.data import sources
from jaxcodec.errors import CodecError

READERS = max(4, os.cpu_count() or 0)  # Threads that read and decode files, unless said.
_BATCH_SECONDS = 60.0  # Of sound, in a device's rows of a batch.
_LONGEST_SECONDS = 60.0  # Longer signals go alone, chunk by chunk.
_CHUNK_SECONDS = 10.0
_IN_WORK = 2  # Batches at a time.

T = TypeVar("T")
R = TypeVar("R")


class Signal(NamedTuple):
  """A signal of the caller's: `key` says which, `wave` is float32 `[time, channels]`."""

  key: Any
  wave: np.ndarray


class Coded(NamedTuple):
  """What became of a signal.

  Attributes:
    codes: int32 `[frames, codebooks]`.
    scales: float32 `[segments]` of a codec that normalises loudness, else None.
    decoded: float32 `[time, channels]`, where it was asked for.
  """

  signal: Signal
  codes: np.ndarray
  scales: np.ndarray | None
  decoded: np.ndarray | None


def read(codec: Codec, file: sources.File) -> np.ndarray:
  """The wave of a sound file at the codec's rate and channels; CodecError if it is damaged."""
  reader = SoundReader(sources.stream(file), file.name, codec.sample_rate, codec.channels)
  blocks = [block[0] for block in reader.blocks()]
  if not blocks:
    raise CodecError(f"{file.name} holds no samples")
  return np.concatenate(blocks)


def ahead(function: Callable[[T], R], items: Iterable[T], threads: int, most: int) -> Iterator[R]:
  """`map(function, items)` by threads that are at most `most` items ahead."""
  with ThreadPoolExecutor(threads) as pool:
    waiting: list[Future[R]] = []
    try:
      for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > most:
          yield waiting.pop(0).result()
      while waiting:
        yield waiting.pop(0).result()
    finally:
      for future in waiting:
        future.cancel()


def encode(
  codec: Codec,
  signals: Iterable[Signal | None],
  *,
  bitrate: int | None = None,
  decode: bool = False,
  devices: Sequence[jax.Device] | None = None,
) -> Iterator[Coded]:
  """Codes of each signal, those of the signal alone, in no particular order.

  Args:
    signals: None among them asks that all before it be coded now.
    bitrate: as in `codec.encode`.
    decode: whether to decode as well.
    devices: of this process; None for all.
  """
  devices = jax.local_devices() if devices is None else devices
  mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
  rows = NamedSharding(mesh, P("data"))
  placed = jax.device_put(codec, NamedSharding(mesh, P()))

  def code(batch):
    if isinstance(batch, Signal):
      return [_alone(codec, batch, bitrate, decode)]
    given = jax.device_put(filled(batch, codec, len(devices)), rows)
    return _rows(codec, batch, _coded(placed, *given, bitrate, decode))

  # One batch fills the gaps of the other: on a CPU the cores that wait for the last one's part of a
  # product, elsewhere the time in which the host makes a batch and takes its codes.
  for found in ahead(code, batches(codec, signals, len(devices)), _IN_WORK, _IN_WORK):
    yield from found


@functools.partial(jax.jit, static_argnames=("bitrate", "decode"))
def _coded(codec: Codec, x, length, bitrate: int | None, decode: bool):
  codes = codec_lib.encode(codec, x, bitrate=bitrate, length=length)
  return codes, codec_lib.decode(codec, codes, length=length) if decode else None


def batches(codec: Codec, signals, num_devices: int) -> Iterator[list[Signal] | Signal]:
  """Lists of signals of like length, and signals that go alone."""
  held: dict[int, list[Signal]] = {}
  for signal in signals:
    if signal is None:
      yield from _left(codec, held, num_devices)
      held = {}
      continue
    if codec.module.scaled or len(signal.wave) > _LONGEST_SECONDS * codec.sample_rate:
      yield signal
      continue
    size = _bucket(codec, signal)
    held.setdefault(size, []).append(signal)
    if len(held[size]) == _most_rows(codec, size) * num_devices:
      yield held.pop(size)
  yield from _left(codec, held, num_devices)


def _left(codec: Codec, held: dict[int, list[Signal]], num_devices: int) -> Iterator[list[Signal]]:
  """Batches of buckets that are not full: of neighbours together, with few rows to fill up."""
  signals = sorted(itertools.chain(*held.values()), key=lambda signal: -len(signal.wave))
  while signals:
    size = _bucket(codec, signals[0])
    most = _most_rows(codec, size) * num_devices
    like = sum(4 * _bucket(codec, signal) >= 3 * size for signal in signals[:most])
    rows = num_devices << max(0, (like // num_devices).bit_length() - 1)
    yield signals[: min(rows, like)]
    signals = signals[min(rows, like) :]


def _bucket(codec: Codec, signal: Signal) -> int:
  """Samples of the batch that a signal goes to: 1 to 8 frames, then 10, 12, 14, 16, 20, ..."""
  frames = max(1, -(-len(signal.wave) // codec.hop_length))
  step = max(1, (1 << (frames - 1).bit_length()) // 8)
  return -(-frames // step) * step * codec.hop_length


def _most_rows(codec: Codec, size: int) -> int:
  """Rows of a device's part of a batch: a power of two."""
  rows = max(1, int(_BATCH_SECONDS * codec.sample_rate) // size)
  return 1 << (rows.bit_length() - 1)


def filled(batch: list[Signal], codec: Codec, num_devices: int) -> tuple[np.ndarray, np.ndarray]:
  """The signals as `[rows, time, channels]` and their lengths; rows of silence fill it up."""
  # Half-empty batches are smaller by halves, and no other shapes are compiled.
  count = num_devices << (-(-len(batch) // num_devices) - 1).bit_length()
  size = max(_bucket(codec, signal) for signal in batch)
  x = np.zeros((count, size, codec.channels), np.float32)
  length = np.full(count, 1, np.int32)
  for i, (_, wave) in enumerate(batch):
    x[i, : len(wave)] = wave
    length[i] = len(wave)
  return x, length


def _rows(codec: Codec, batch: list[Signal], found) -> list[Coded]:
  codes, decoded = jax.device_get(found)
  coded = []
  for i, signal in enumerate(batch):
    size = len(signal.wave)
    y = None if decoded is None else decoded[i, :size]
    coded.append(Coded(signal, codes[i, : codec.module.num_frames(size)], None, y))
  return coded


def _alone(codec: Codec, signal: Signal, bitrate: int | None, decode: bool) -> Coded:
  frames = chunked.chunk_frames(codec, _CHUNK_SECONDS)
  chunks = list(chunked.encode_blocks(codec, [signal.wave[None]], frames, bitrate=bitrate))
  codes = np.concatenate([codes[0] for codes, _ in chunks])
  scales = None
  if codec.module.scaled:
    scales = np.concatenate([scales[0] for _, scales in chunks if scales is not None])
  y = None
  if decode:
    blocks = chunked.decode_blocks(codec, chunks, frames, len(signal.wave))
    y = np.concatenate([block[0] for block in blocks])
  return Coded(signal, codes, scales, y)
