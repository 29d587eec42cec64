"""Signals of any length through a codec in bounded memory, block by block.

The codes are those of the whole signal and so, to rounding, are the samples: a codec carries its
state from chunk to chunk (see `codec.encode_chunk`); one that cuts the signal into segments does
some segments at a time, one that has windows a window. A half of a codec that sees all of a signal
at once is given the whole, and memory then grows with it. Chunks have one shape, and the last one
is filled up to one of a few, so that few compilations serve every length.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec import codec as codec_lib
from jaxcodec.audio.encodec import ScaledCodes
from jaxcodec.codec import Codec

_encode = jax.jit(codec_lib.encode, static_argnames="bitrate")
_decode = jax.jit(codec_lib.decode)
_encode_chunk = jax.jit(codec_lib.encode_chunk, static_argnames=("bitrate", "final"))
_decode_chunk = jax.jit(codec_lib.decode_chunk, static_argnames="final")

Coded = tuple[np.ndarray, np.ndarray | None]


def chunk_frames(codec: Codec, seconds: float) -> int:
  """Frames of a chunk of about `seconds`: whole segments, for a codec that has them."""
  module = codec.module
  if module.window_frames:
    windows = round(seconds * codec.sample_rate / codec.hop_length / module.window_frames)
    return max(1, windows) * module.window_frames
  if not module.segment_frames:
    return max(1, round(seconds * codec.sample_rate / codec.hop_length))
  return max(1, round(seconds * codec.sample_rate / module.segment_stride)) * module.segment_frames


def stored_frames(codec: Codec, num_samples: int) -> int:
  """Frames that `encode_blocks` gives for a signal of `num_samples`."""
  module = codec.module
  if not module.segment_frames:
    return module.num_frames(num_samples)
  # Counted, not listed: a hostile header may claim any number of samples.
  whole = max(0, -(-num_samples // module.segment_stride) - 1)
  last = num_samples - whole * module.segment_stride
  return whole * module.segment_frames + -(-last // module.hop_length)


def shapes(codec: Codec, num_samples: int, frames: int) -> tuple[int, ...]:
  """Equal for signals that are coded in the same shapes: what compiled for one serves the other."""
  if codec.module.segment_frames:
    return (num_samples,)
  if codec.module.window_frames:
    return (codec.module.window_frames,)
  count = codec.module.num_frames(num_samples)
  if not codec.module.encoder_streams:
    return (rounded_up(count),)
  last = (count - 1) % frames + 1
  if not codec.causal and count > frames:
    last += frames
  # A first chunk and a later one may differ, two later ones do not.
  return min(2, (count - last) // frames), rounded_up(last)


def encode_blocks(
  codec: Codec, blocks: Iterable[np.ndarray], frames: int, *, bitrate: int | None = None
) -> Iterator[Coded]:
  """Codes [batch, `frames`, codebooks], the last ones fewer, and scales or None, in turn.

  Args:
    blocks: float32 `[batch, time, channels]` of any lengths.
    frames: of a chunk, as `chunk_frames` says.

  Every segment but the last gives its full frames: where the last one lies within the overlap and
  the one before it is short too, codes of zero fill that one up.
  """
  if codec.module.segment_frames:
    return _encode_segments(codec, blocks, frames, bitrate)
  if codec.module.window_frames:
    encode = _encode_windows
  else:
    encode = _encode_stream if codec.module.encoder_streams else _encode_whole
  codes = encode(codec, blocks, frames, bitrate)
  return ((chunk, None) for chunk, _ in regroup(codes, frames))


def decode_blocks(
  codec: Codec, chunks: Iterable[Coded], frames: int, num_samples: int
) -> Iterator[np.ndarray]:
  """The signal of `encode_blocks`' chunks: float32 `[batch, time, channels]`, `num_samples` in all.

  Args:
    chunks: of any lengths, but whole segments for a codec that has them.
    frames: to decode at a time, as `chunk_frames` says; it bounds the memory.
  """
  if codec.module.segment_frames:
    waves = _decode_segments(codec, chunks, frames, num_samples)
  elif codec.module.window_frames:
    waves = _decode_windows(codec, (codes for codes, _ in chunks))
  elif codec.module.decoder_streams:
    waves = _decode_stream(codec, (codes for codes, _ in chunks), frames)
  else:
    waves = _decode_whole(codec, [codes for codes, _ in chunks])
  for wave in waves:
    wave = wave[:, :num_samples]
    num_samples -= wave.shape[1]
    if wave.shape[1]:
      yield wave


class Span(NamedTuple):
  """The stored frames that give some samples of a signal, and what `decode_blocks` makes of them.

  Attributes:
    first, last: frames, without `last`.
    start: the sample of the whole signal that comes out first.
    num_samples: how many come out.
  """

  first: int
  last: int
  start: int
  num_samples: int


def span(codec: Codec, num_samples: int, first: int, stop: int) -> Span:
  """Which frames decode to samples `first` to `stop`, not with it, of a signal of `num_samples`.

  With the frames that those samples depend on before and after their own, so that nothing is lost;
  all frames before where a recurrence remembers without end. `first < stop`.
  """
  module = codec.module
  if module.segment_frames:
    return _span_of_segments(codec, num_samples, first, stop)
  hop, count = codec.hop_length, module.num_frames(num_samples)
  if module.window_frames:
    # From the first window that the first sample lies in to the last of the last one.
    size, stride = module.window_frames, module.window_stride
    start = max(0, -(-(first // hop - size + 1) // stride)) * stride
    end = min(count, (stop - 1) // hop // stride * stride + size)
    return Span(start, end, start * hop, min(num_samples, end * hop) - start * hop)
  if not module.decoder_streams:
    return Span(0, count, 0, num_samples)
  reach = module.decoder_reach
  start = 0 if reach.before is None else max(0, first // hop - reach.before)
  end = min(count, (stop - 1) // hop + 1 + reach.after)
  return Span(start, end, start * hop, min(num_samples, end * hop) - start * hop)


def _span_of_segments(codec: Codec, num_samples: int, first: int, stop: int) -> Span:
  module = codec.module
  stride, whole = module.segment_stride, module.segment_frames
  start = max(0, (first - whole * module.hop_length) // stride + 1)
  end = (stop - 1) // stride + 1
  # Before a last segment that lies within the overlap one is short, and the last tells by how much.
  count = -(-num_samples // stride)
  if end >= count - 1:
    last, covered = stored_frames(codec, num_samples), num_samples
  else:
    last, covered = end * whole, (end - 1) * stride + module.segment_length
  return Span(start * whole, last, start * stride, covered - start * stride)


def cut(blocks: Iterable[np.ndarray], lead: int, count: int) -> Iterator[np.ndarray]:
  """The same blocks without the first `lead` samples, `count` samples in all."""
  for block in blocks:
    dropped = min(lead, block.shape[1])
    block = block[:, dropped : dropped + count]
    lead, count = lead - dropped, count - block.shape[1]
    if block.shape[1]:
      yield block


def regroup(blocks: Iterable[np.ndarray], size: int) -> Iterator[tuple[np.ndarray, bool]]:
  """The same signal in blocks of `size` steps, the last one shorter, each with whether it is
  last."""
  held: list[np.ndarray] = []
  count = 0
  for block in blocks:
    held.append(block)
    count += block.shape[1]
    while count > size:  # Not >=: what fills up exactly may be the end.
      joined = np.concatenate(held, axis=1)
      yield joined[:, :size], False
      held, count = [joined[:, size:]], count - size
  if count:
    yield np.concatenate(held, axis=1), True


def _encode_stream(codec: Codec, blocks, frames: int, bitrate) -> Iterator[np.ndarray]:
  hop, state, pending = codec.hop_length, None, None
  for block, final in _joined_end(codec, regroup(blocks, frames * codec.hop_length)):
    if state is None:
      state = codec_lib.init_stream(codec, block.shape[0])
    count = -(-block.shape[1] // hop)
    fill, ending = _filling(codec, count, frames, final)
    if ending:
      ending["length"] = np.full(block.shape[0], block.shape[1])
    block = np.pad(block, ((0, 0), (0, (count + fill) * hop - block.shape[1]), (0, 0)))
    state, codes = _encode_chunk(codec, state, block, bitrate=bitrate, **ending)
    # The device works on this chunk while the host reads and resamples the next.
    if pending is not None:
      yield np.asarray(pending)
    pending = codes[:, : codes.shape[1] - fill]
  if pending is not None:
    yield np.asarray(pending)


def _decode_stream(codec: Codec, chunks, frames: int) -> Iterator[np.ndarray]:
  state = None
  for codes, final in _joined_end(codec, regroup(chunks, frames)):
    if state is None:
      state = codec_lib.init_stream(codec, codes.shape[0])
    fill, ending = _filling(codec, codes.shape[1], frames, final)
    if ending:
      ending["length"] = np.full(codes.shape[0], codes.shape[1])
    # A dropped code counts as zero.
    codes = np.pad(codes, ((0, 0), (0, fill), (0, 0)), constant_values=-1)
    state, y = _decode_chunk(codec, state, codes, **ending)
    yield np.asarray(y)[:, : y.shape[1] - fill * codec.hop_length]


def _encode_whole(codec: Codec, blocks, frames: int, bitrate) -> Iterator[np.ndarray]:
  del frames  # They are regrouped by the caller.
  held = list(blocks)
  x = np.concatenate(held, axis=1) if held else np.zeros((1, 0, codec.channels), np.float32)
  count = codec.module.num_frames(x.shape[1])
  if count:
    fill = rounded_up(count) * codec.hop_length - x.shape[1]
    length = np.full(x.shape[0], x.shape[1])
    x = np.pad(x, ((0, 0), (0, fill), (0, 0)))
    yield np.asarray(_encode(codec, x, bitrate=bitrate, length=length))[:, :count]


def _decode_whole(codec: Codec, chunks: list[np.ndarray]) -> Iterator[np.ndarray]:
  if not chunks:
    return
  codes = np.concatenate(chunks, axis=1)
  count = codes.shape[1]
  codes = np.pad(codes, ((0, 0), (0, rounded_up(count) - count), (0, 0)), constant_values=-1)
  length = np.full(codes.shape[0], count * codec.hop_length)
  yield np.asarray(_decode(codec, codes, length=length))[:, : count * codec.hop_length]


def _encode_windows(codec: Codec, blocks, frames: int, bitrate) -> Iterator[np.ndarray]:
  del frames  # They are regrouped by the caller.
  hop, size = codec.hop_length, codec.module.window_frames * codec.hop_length
  for x, _ in regroup(blocks, size):
    filled = np.pad(x, ((0, 0), (0, size - x.shape[1]), (0, 0)))
    yield np.asarray(_encode(codec, filled, bitrate=bitrate))[:, : -(-x.shape[1] // hop)]


def _decode_windows(codec: Codec, chunks) -> Iterator[np.ndarray]:
  module, hop = codec.module, codec.hop_length
  size, stride = module.window_frames, module.window_stride
  rise = np.linspace(0, 1, (size - stride) * hop, dtype=np.float32)[:, None]
  held, tail = None, None
  for codes, final in regroup(chunks, stride):
    held = codes if held is None else np.concatenate([held, codes], axis=1)
    # A window is the last one if no more codes follow than fit.
    while held.shape[1] > size or (final and held.shape[1]):
      count, window = held.shape[1], held[:, :size]
      window = np.pad(window, ((0, 0), (0, size - window.shape[1]), (0, 0)), constant_values=-1)
      y = np.array(_decode(codec, window))[:, : min(count, size) * hop]
      if tail is not None:
        over = min(tail.shape[1], y.shape[1])
        y[:, :over] = y[:, :over] * rise[:over] + tail[:, :over] * rise[::-1][:over]
      if count <= size:
        yield y
        return
      yield y[:, : stride * hop]
      held, tail = held[:, stride:], y[:, stride * hop :]


def _filling(codec: Codec, count: int, frames: int, final: bool) -> tuple[int, dict[str, Any]]:
  """Frames to add to a chunk of `count`, so that there are few shapes, and how to say its end."""
  if not final:
    return 0, {}
  size = rounded_up(count)
  if codec.module.pads_with_zeros:
    return min(size, max(frames, count)) - count, {}
  return size - count, {"final": True}


def rounded_up(count: int) -> int:
  """1, 2, 3, 4, 6, 8, 12, ...: `count` or at most half as much again."""
  size = 1 << max(0, count - 1).bit_length()
  return size * 3 // 4 if size * 3 // 4 >= count else size


def _joined_end(codec: Codec, blocks):
  """The last two blocks as one where the codec looks ahead: alone the last might be too short."""
  if codec.causal:
    yield from blocks
    return
  held = None
  for block, final in blocks:
    if final:
      yield (block if held is None else np.concatenate([held, block], axis=1)), True
    elif held is not None:
      yield held, False
    held = block


def _encode_segments(codec: Codec, blocks, frames: int, bitrate) -> Iterator[Coded]:
  module = codec.module
  count = frames // module.segment_frames
  overlap = module.segment_length - module.segment_stride
  for x, final in _windows(blocks, count * module.segment_stride, overlap):
    coded = _encode(codec, jnp.asarray(x), bitrate=bitrate)
    codes, scales = np.asarray(coded.codes), np.asarray(coded.scales)
    if not final:
      # What starts in the overlap is the next window's first segment.
      yield codes[:, :frames], scales[:, :count]
      continue
    missing = _missing_frames(codec, x.shape[1])
    at = codes.shape[1] - module.segment_sizes(x.shape[1])[-1]
    codes = np.insert(codes, [at] * missing, 0, axis=1)
    for i in range(-(-codes.shape[1] // frames)):
      yield codes[:, i * frames : (i + 1) * frames], scales[:, i * count : (i + 1) * count]


def _windows(blocks, step: int, overlap: int) -> Iterator[tuple[np.ndarray, bool]]:
  """Windows of `step + overlap` samples that start `step` apart, and the rest as the last one."""
  held = None
  for block in blocks:
    held = block if held is None else np.concatenate([held, block], axis=1)
    while held.shape[1] > step + overlap:
      yield held[:, : step + overlap], False
      held = held[:, step:]
  if held is not None and held.shape[1]:
    yield held, True


def _decode_segments(codec: Codec, chunks, frames: int, num_samples: int) -> Iterator[np.ndarray]:
  """Some segments at a time, with one before and one after them, which they overlap with."""
  stride, whole = codec.module.segment_stride, codec.module.segment_frames
  count = frames // whole
  held: list[Coded] = []
  lead, start = 0, 0

  def decoded(parts, num_samples):
    codes = np.concatenate([codes for codes, _ in parts], axis=1)
    missing = _missing_frames(codec, num_samples)
    end = codes.shape[1] - parts[-1][0].shape[1]
    codes = np.delete(codes, slice(end - missing, end), axis=1)
    scales = np.concatenate([scales for _, scales in parts], axis=1)
    return np.asarray(_decode(codec, ScaledCodes(jnp.asarray(codes), jnp.asarray(scales))))

  for segment in _segments(chunks, whole):
    held.append(segment)
    # The last two may be short, and then are no neighbours to decode with.
    if len(held) == lead + count + 3:
      parts = held[: lead + count + 1]
      y = decoded(parts, (len(parts) - 1) * stride + codec.module.segment_length)
      yield y[:, lead * stride : (lead + count) * stride]
      start += count * stride
      held, lead = held[lead + count - 1 :], 1
  if held:
    yield decoded(held, num_samples - start + lead * stride)[:, lead * stride :]


def _segments(chunks: Iterable[Coded], whole: int) -> Iterator[Coded]:
  for codes, scales in chunks:
    assert scales is not None
    for i in range(scales.shape[1]):
      yield codes[:, i * whole : (i + 1) * whole], scales[:, i : i + 1]


def _missing_frames(codec: Codec, num_samples: int) -> int:
  """Frames by which the last segment but one is shorter than the stored ones.

  It is so only where the last segment lies within the overlap.
  """
  sizes = codec.module.segment_sizes(num_samples)
  return codec.module.segment_frames - sizes[-2] if len(sizes) > 1 else 0
