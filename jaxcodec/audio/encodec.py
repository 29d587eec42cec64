"""EnCodec: SEANet encoder, residual vector quantizer, SEANet decoder.

The idea: one network serves every bit rate, because training draws the number of residual stages at
random; a file then stores as many stages as its rate pays for. The 48 kHz model works on segments
of a second, each divided by its own loudness, and joins them by a weighted overlap-add.
Source: Defossez et al., https://arxiv.org/abs/2210.13438; github.com/facebookresearch/encodec.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.bottlenecks import ResidualVQ
from jaxcodec.decoders.seanet import SEANetDecoder
from jaxcodec.encoders.seanet import SEANetEncoder
from jaxcodec.layers.seanet import SEANetConfig

# Segments run through the network at a time, which bounds the memory that a long recording takes.
_SEGMENTS_AT_ONCE = 8


class ScaledCodes(NamedTuple):
  """Codes of a codec that normalises loudness.

  Attributes:
    codes: int32 `[B, F, Q]`, the frames of all segments one after another.
    scales: float32 `[B, S]`, what each segment was divided by.
  """

  codes: jax.Array
  scales: jax.Array


class Encodec(nn.Module):
  """A neural sound codec of the EnCodec family.

  Attributes:
    net: shape of encoder and decoder.
    sample_rate: Hz.
    num_codebooks, codebook_size: stages of the quantizer, and entries of each.
    bitrates: bit/s on offer, rising.
    segment_length, segment_stride: samples of a segment and between starts; 0 for no segments.
    normalize: whether each segment is divided by its root mean square; needs segments.
  """

  net: SEANetConfig
  sample_rate: int
  num_codebooks: int
  codebook_size: int
  bitrates: tuple[int, ...]
  segment_length: int = 0
  segment_stride: int = 0
  normalize: bool = False

  @property
  def channels(self) -> int:
    return self.net.channels

  @property
  def hop_length(self) -> int:
    """Samples per latent."""
    return math.prod(self.net.strides)

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (self.codebook_size,) * self.num_codebooks

  @property
  def segment_frames(self) -> int:
    """Latents of a whole segment; 0 for no segments."""
    return -(-self.segment_length // self.hop_length)

  @property
  def streams(self) -> bool:
    """Whether a signal may come in chunks, with the result of the whole."""
    return self.net.causal and not self.segment_length

  @property
  def pads_with_zeros(self) -> bool:
    """Whether zeros after a signal, or dropped codes after codes, change nothing before them."""
    return self.streams and self.net.pad_mode == "zero"

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

  def __call__(self, x):
    """[B, T, C] -> [B, T, C] through all codebooks; creates every parameter."""
    return self.decode(self.encode(x, self.num_codebooks))[:, : x.shape[1]]

  def encode(self, x, num_codebooks: int):
    """[B, T, C] -> int32 [B, F, num_codebooks], or `ScaledCodes` if the codec normalises."""
    if not self.segment_length:
      return self.encode_chunk(x, None, num_codebooks, final=True)[0]
    starts = range(0, x.shape[1], self.segment_stride)
    segments = [x[:, start : start + self.segment_length] for start in starts]
    # At most the last two are short.
    whole = [segment for segment in segments if segment.shape[1] == self.segment_length]
    groups = [jnp.stack(whole, axis=1)] if whole else []
    groups += [segment[:, None] for segment in segments[len(whole) :]]
    parts = [self._encode_segments(group, num_codebooks) for group in groups]
    codes = [part.codes.reshape(x.shape[0], -1, num_codebooks) for part in parts]
    scaled = ScaledCodes(
      jnp.concatenate(codes, axis=1), jnp.concatenate([part.scales for part in parts], axis=1)
    )
    return scaled if self.normalize else scaled.codes

  def decode(self, codes):
    """Inverse of `encode`, with `F * hop_length` samples or what the segments cover."""
    if not self.segment_length:
      return self.decode_chunk(codes, None)[0]
    if not self.normalize:
      codes = ScaledCodes(
        codes, jnp.ones((codes.shape[0], -(-codes.shape[1] // self.segment_frames)))
      )
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
    longest = parts[0].shape[2]
    parts = [jnp.pad(p, ((0, 0), (0, 0), (0, longest - p.shape[2]), (0, 0))) for p in parts]
    sizes = [size * self.hop_length for size in split]
    length = (len(split) - 1) * self.segment_stride + sizes[-1]
    return F.overlap_add(jnp.concatenate(parts, axis=1), self.segment_stride, length, sizes)

  def encode_chunk(self, x, state, num_codebooks: int, *, final: bool):
    """The next part of a signal: `(codes, state)`; state None at its start, `final` at its end."""
    if self.pads_with_zeros:
      # At the input and not in every layer: then a stream need not know where it ends.
      x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % self.hop_length), (0, 0)))
    z, state = self.encoder(x, state, final)
    return self.quantizer.encode(z, num_codebooks), state

  def decode_chunk(self, codes, state):
    """The next part of the codes: `([B, F * hop_length, C], state)`."""
    return self.decoder(
      self.quantizer.decode(codes), state, final=not self.streams or state is None
    )

  def _encode_segments(self, x, num_codebooks: int) -> ScaledCodes:
    """[B, S, N, C] -> codes [B, S, F, Q] and scales [B, S]."""
    scales = jnp.ones(x.shape[:2])
    if self.normalize:
      scales = jnp.sqrt(jnp.mean(jnp.mean(x, axis=-1) ** 2, axis=-1)) + 1e-8

    def encode(x):
      return self.quantizer.encode(self.encoder(x)[0], num_codebooks)

    codes = _map_segments(encode, x / scales[..., None, None])
    return ScaledCodes(codes, scales)

  def _decode_segments(self, codes, scales):
    """Codes [B, S, F, Q] and scales [B, S] -> [B, S, F * hop_length, C]."""

    def decode(codes):
      return self.decoder(self.quantizer.decode(codes))[0]

    return _map_segments(decode, codes) * scales[..., None, None]


def _map_segments(function, x):
  """`function` over the first two axes of `x` as one batch, in groups of bounded size."""
  rows = x.reshape(-1, *x.shape[2:])
  groups = [
    function(rows[i : i + _SEGMENTS_AT_ONCE]) for i in range(0, rows.shape[0], _SEGMENTS_AT_ONCE)
  ]
  y = jnp.concatenate(groups)
  return y.reshape(*x.shape[:2], *y.shape[1:])
