"""Sound coded and decoded while it comes in: raw samples from one pipe to another."""

import time
from typing import BinaryIO, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec import codec as codec_lib
from jaxcodec.codec import Codec, StreamState

SampleFormat = Literal["s16le", "f32le"]
_TYPES: dict[SampleFormat, np.dtype] = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}


class Timing(NamedTuple):
  """What `pipe` took.

  Attributes:
    seconds: of sound.
    chunk_seconds: of sound in a chunk: what the sound is late by, beside the time a step takes.
    median_step, slowest_step: seconds from a chunk's arrival to its samples.
  """

  seconds: float
  chunk_seconds: float
  median_step: float
  slowest_step: float


def round_trip(
  codec: Codec, state: StreamState, chunk: jax.Array, bitrate: int | None = None
) -> tuple[StreamState, jax.Array]:
  """One chunk through encoder and decoder: `[B, n * hop_length, C]` to the same, and the state."""
  state, codes = codec_lib.encode_chunk(codec, state, chunk, bitrate=bitrate)
  return codec_lib.decode_chunk(codec, state, codes)


def pipe(
  codec: Codec,
  source: BinaryIO,
  sink: BinaryIO,
  *,
  bitrate: int | None = None,
  frames: int = 1,
  sample_format: SampleFormat = "s16le",
) -> Timing:
  """Raw samples at the codec's rate, channels interleaved, from `source` to `sink` until it ends.

  Every chunk is written as soon as it is decoded, exactly as many samples as came. What is no
  finite number counts as silence: a stream has to go on.

  Args:
    frames: of codes in a chunk.

  Raises:
    ValueError: if the codec is not causal, or cannot start with so short a chunk.
  """
  if not codec.causal or not codec.streams:
    raise ValueError(f"codec {codec.name} is not causal: it cannot answer while sound comes in")
  if not codec.module.pads_with_zeros:
    raise ValueError(f"codec {codec.name} reflects the signal at its ends: it needs to see them")
  kind, size = _TYPES[sample_format], frames * codec.hop_length
  width = kind.itemsize * codec.channels
  step = jax.jit(round_trip, static_argnames="bitrate", donate_argnames="state")
  codec = jax.device_put(codec)
  silence = jnp.zeros((1, size, codec.channels))
  # Compiled before the first sample comes.
  jax.block_until_ready(step(codec, codec_lib.init_stream(codec), silence, bitrate=bitrate))
  state, times, samples = codec_lib.init_stream(codec), [], 0
  while data := _read_fully(source, size * width):
    start = time.perf_counter()
    x = np.frombuffer(data[: len(data) // width * width], kind).reshape(1, -1, codec.channels)
    count = x.shape[1]
    x = x.astype(np.float32) / (32768 if kind.kind == "i" else 1)
    x = np.pad(np.nan_to_num(x), ((0, 0), (0, size - count), (0, 0)))
    state, y = step(codec, state, x, bitrate=bitrate)
    y = np.clip(np.asarray(y)[0, :count], -1, 1)
    y = np.round(y * 32767) if kind.kind == "i" else y
    sink.write(y.astype(kind).tobytes())
    sink.flush()
    times.append(time.perf_counter() - start)
    samples += count
  times = times or [0.0]
  seconds = samples / codec.sample_rate
  return Timing(seconds, size / codec.sample_rate, float(np.median(times)), max(times))


def _read_fully(source: BinaryIO, size: int) -> bytes:
  """`size` bytes, fewer only at the end: a pipe gives what it has."""
  data = b""
  while len(data) < size and (part := source.read(size - len(data))):
    data += part
  return data
