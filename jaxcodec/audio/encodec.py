"""EnCodec: SEANet encoder, residual vector quantizer, SEANet decoder.

The idea: one network serves every bit rate, because training draws the number of residual stages at
random; a file then stores as many stages as its rate pays for. The 48 kHz model works on segments
of a second, each divided by its own loudness, and joins them by a weighted overlap-add.
Source: Defossez et al., https://arxiv.org/abs/2210.13438; github.com/facebookresearch/encodec.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec import functional as F
from jaxcodec.audio.sound_codec import SoundCodec
from jaxcodec.bottlenecks import ResidualVQ
from jaxcodec.decoders.seanet import SEANetDecoder
from jaxcodec.encoders.seanet import SEANetEncoder
from jaxcodec.layers.reach import Reach
from jaxcodec.layers.seanet import SEANetConfig

# Segments run through the network at a time, which bounds the memory that a long recording takes.
_SEGMENTS_AT_ONCE = 8

# Measured at 24 kHz, encoder and decoder: a tenth quicker than ten seconds at once, and the least.
_PIECE_BYTES = 28e6
# Of narrow networks, whose encoder is a fifth slower by ten seconds at once.
_PIECE_SECONDS = 5.0


class ScaledCodes(NamedTuple):
  """Codes of a codec that normalises loudness.

  Attributes:
    codes: int32 `[B, F, Q]`, the frames of all segments one after another.
    scales: float32 `[B, S]`, what each segment was divided by.
  """

  codes: jax.Array
  scales: jax.Array


class Encodec(SoundCodec):
  """A neural sound codec of the EnCodec family.

  Attributes:
    sample_rate, bitrates, num_codebooks, codebook_size: as in `SoundCodec`.
    net: shape of encoder and decoder.
    segment_length, segment_stride: samples of a segment and between starts, each segment divided
      by its root mean square; 0 for no segments.
  """

  net: SEANetConfig
  segment_length: int = 0
  segment_stride: int = 0

  @property
  def channels(self) -> int:
    return self.net.channels

  @property
  def hop_length(self) -> int:
    return math.prod(self.net.strides)

  @property
  def segment_frames(self) -> int:
    """Latents of a whole segment; 0 for no segments."""
    return -(-self.segment_length // self.hop_length)

  @property
  def steady(self) -> bool:
    return self.net.steady

  @property
  def causal(self) -> bool:
    return self.net.causal

  @property
  def scaled(self) -> bool:
    return bool(self.segment_length)

  @property
  def encoder_streams(self) -> bool:
    return not self.segment_length

  @property
  def decoder_streams(self) -> bool:
    return not self.segment_length

  @property
  def pads_with_zeros(self) -> bool:
    return self.streams and self.net.causal and self.net.pad_mode == "zero"

  @property
  def signal_width(self) -> int:
    return self.net.num_filters

  @property
  def piece_seconds(self) -> float:
    """So much that one activation of every stage, together, has `_PIECE_BYTES`, or less."""
    rates = self.sample_rate / np.cumprod((1, *self.net.strides))
    widths = self.net.num_filters * 2 ** np.arange(len(rates))
    return min(_PIECE_SECONDS, _PIECE_BYTES / (4 * float(rates @ widths)))

  @property
  def decoder_reach(self) -> Reach:
    return self.net.decoder_reach

  def num_active(self, bitrate: int) -> int:
    """Codebooks that `bitrate` bit/s pays for."""
    frame_rate = math.ceil(self.sample_rate / self.hop_length)
    per_codebook = math.log2(self.codebook_size) * frame_rate
    return min(self.num_codebooks, max(1, math.floor(bitrate / per_codebook)))

  def num_frames(self, num_samples: int) -> int:
    """Latents of a signal of `num_samples`."""
    return sum(self.segment_sizes(num_samples))

  def segment_sizes(self, num_samples: int) -> tuple[int, ...]:
    """Latents of each segment of a signal of `num_samples`; one segment if the codec has none."""
    starts = range(0, num_samples, self.segment_stride or max(1, num_samples))
    sizes = [min(self.segment_length or num_samples, num_samples - start) for start in starts]
    return tuple(-(-size // self.hop_length) for size in sizes)

  def segment_split(self, num_frames: int, count: int) -> tuple[int, ...]:
    """Latents of each of `count` segments that have `num_frames` together.

    If the last segment is no longer than the overlap, the one before it is short too. Both grow
    with the signal, so their sum tells them apart.

    Raises:
      ValueError: if no signal has that many of both.
    """
    whole, hop = self.segment_frames, self.hop_length
    rest = num_frames - max(0, count - 2) * whole
    if count == 1 and 1 <= rest <= whole:
      return (rest,)
    if count >= 2:
      for last in range(1, min(rest, whole + 1)):
        # The shortest and the longest signal with such a last segment.
        for size in ((last - 1) * hop + 1, last * hop):
          before = min(whole, -(-(self.segment_stride + size) // hop))
          if before + last == rest:
            return (*(whole,) * (count - 2), before, last)
    raise ValueError(f"{count} scales for {num_frames} frames in segments of {whole}")

  def setup(self):
    self.encoder = SEANetEncoder(self.net)
    self.quantizer = ResidualVQ(self.num_codebooks, self.codebook_size, self.net.dimension)
    self.decoder = SEANetDecoder(self.net)

  def encode(self, x, num_codebooks: int, length=None):
    """As `SoundCodec.encode`; `ScaledCodes` if the codec has segments."""
    if not self.segment_length:
      return super().encode(x, num_codebooks, length)
    if length is not None:
      return self._encode_rows(x, num_codebooks, length)
    starts = range(0, x.shape[1], self.segment_stride)
    segments = [x[:, start : start + self.segment_length] for start in starts]
    # At most the last two are short.
    whole = [segment for segment in segments if segment.shape[1] == self.segment_length]
    groups = [jnp.stack(whole, axis=1)] if whole else []
    groups += [segment[:, None] for segment in segments[len(whole) :]]
    parts = [self._encode_segments(group, num_codebooks) for group in groups]
    codes = [part.codes.reshape(x.shape[0], -1, num_codebooks) for part in parts]
    return ScaledCodes(
      jnp.concatenate(codes, axis=1), jnp.concatenate([part.scales for part in parts], axis=1)
    )

  def decode(self, codes, length=None):
    """As `SoundCodec.decode`, with `F * hop_length` samples or what the segments cover."""
    if not self.segment_length:
      return super().decode(codes, length)
    if length is not None:
      return self._decode_rows(codes, length)
    codes, scales = codes
    batch, frames, stages = codes.shape
    split = self.segment_split(frames, scales.shape[1])
    num_whole = split.count(self.segment_frames)
    joined = num_whole * self.segment_frames
    # Codes and scales, of the whole segments together and then of each short one.
    groups = []
    if num_whole:
      shape = (batch, num_whole, self.segment_frames, stages)
      groups.append((codes[:, :joined].reshape(shape), scales[:, :num_whole]))
    for i, size in enumerate(split[num_whole:], start=num_whole):
      groups.append((codes[:, None, joined : joined + size], scales[:, i : i + 1]))
      joined += size
    parts = [self._decode_segments(*group) for group in groups]
    if len(split) == 1:
      return parts[0][:, 0]
    whole = self.segment_frames * self.hop_length
    parts = [jnp.pad(p, ((0, 0), (0, 0), (0, whole - p.shape[2]), (0, 0))) for p in parts]
    sizes = [size * self.hop_length for size in split]
    length = (len(split) - 1) * self.segment_stride + sizes[-1]
    return F.overlap_add(jnp.concatenate(parts, axis=1), self.segment_stride, length, sizes)

  def _encode_rows(self, x, num_codebooks: int, length) -> ScaledCodes:
    """As `encode`, every segment filled up to a whole one and each row as long as it is."""
    count = -(-x.shape[1] // self.segment_stride)
    end = (count - 1) * self.segment_stride + self.segment_length
    x = jnp.pad(x, ((0, 0), (0, end - x.shape[1]), (0, 0)))
    starts = [i * self.segment_stride for i in range(count)]
    segments = jnp.stack([x[:, i : i + self.segment_length] for i in starts], axis=1)
    sizes = self._sizes_of_rows(length, count)
    # Of a segment that no sample lies in something is coded all the same, and dropped.
    coded = self._encode_segments(segments, num_codebooks, jnp.maximum(sizes, 1))
    frames = -(-sizes // self.hop_length)
    there = jnp.arange(self.segment_frames) < frames[..., None]
    codes = jnp.where(there[..., None], coded.codes, -1)
    scales = jnp.where(sizes > 0, coded.scales, 0)
    return ScaledCodes(codes.reshape(x.shape[0], -1, num_codebooks), scales)

  def _decode_rows(self, coded: ScaledCodes, length):
    """Inverse of `_encode_rows`, with the samples that whole segments cover."""
    codes, scales = coded
    count = scales.shape[1]
    if codes.shape[1] != count * self.segment_frames:
      raise ValueError(f"{count} scales for {codes.shape[1]} frames: rows have whole segments")
    frames = -(-self._sizes_of_rows(length, count) // self.hop_length)
    codes = codes.reshape(codes.shape[0], count, self.segment_frames, codes.shape[2])
    segments = self._decode_segments(codes, scales, jnp.maximum(frames, 1))
    end = (count - 1) * self.segment_stride + self.segment_frames * self.hop_length
    return F.overlap_add(segments, self.segment_stride, end, frames * self.hop_length)

  def _sizes_of_rows(self, length, count: int):
    """Samples [B, S] of each of `count` segments of rows of `length` [B]."""
    starts = jnp.arange(count) * self.segment_stride
    return jnp.clip(length[:, None] - starts, 0, self.segment_length)

  def _encode_segments(self, x, num_codebooks: int, sizes=None) -> ScaledCodes:
    """[B, S, N, C] -> codes [B, S, F, Q] and scales [B, S]; `sizes` [B, S] in samples."""
    power = jnp.mean(x, axis=-1) ** 2
    power = power.mean(axis=-1) if sizes is None else power.sum(axis=-1) / sizes
    scales = jnp.sqrt(power) + 1e-8

    def encode(x, length):
      z, _ = self.encoded(x, None, True, length)
      return self.quantizer.encode(z, num_codebooks)

    return ScaledCodes(_map_segments(encode, x / scales[..., None, None], sizes), scales)

  def _decode_segments(self, codes, scales, frames=None):
    """Codes [B, S, F, Q] and scales [B, S] -> [B, S, F * hop_length, C]; `frames` [B, S]."""

    def decode(codes, length):
      return self.decoder(self.quantizer.decode(codes), None, True, length)[0]

    return _map_segments(decode, codes, frames) * scales[..., None, None]


def _map_segments(function, x, lengths=None):
  """`function` over the first two axes of `x` as one batch, in groups of bounded size."""
  rows = x.reshape(-1, *x.shape[2:])
  lengths = None if lengths is None else lengths.reshape(-1)
  groups = []
  for i in range(0, rows.shape[0], _SEGMENTS_AT_ONCE):
    part = slice(i, i + _SEGMENTS_AT_ONCE)
    groups.append(function(rows[part], None if lengths is None else lengths[part]))
  y = jnp.concatenate(groups)
  return y.reshape(*x.shape[:2], *y.shape[1:])
