"""EnCodec: SEANet encoder, residual vector quantizer, SEANet decoder.

The idea: one network serves every bit rate, because training draws the number of residual stages at
random; a file then stores as many stages as its rate pays for. The 48 kHz model works on segments of a
second, each divided by its own loudness, and joins them by a weighted overlap-add.
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
    segment_length, segment_stride: samples of a segment and between starts; None for no segments.
    normalize: whether each segment is divided by its root mean square; needs segments.
  """

  net: SEANetConfig
  sample_rate: int
  num_codebooks: int
  codebook_size: int
  bitrates: tuple[int, ...]
  segment_length: int | None = None
  segment_stride: int | None = None
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
  def segment_frames(self) -> int | None:
    """Latents of a whole segment."""
    return None if self.segment_length is None else -(-self.segment_length // self.hop_length)

  @property
  def streams(self) -> bool:
    """Whether a signal may come in chunks, with the result of the whole."""
    return self.net.causal and self.segment_length is None

  @property
  def pads_with_zeros(self) -> bool:
    """Whether zeros after the signal, or dropped codes after its codes, change nothing before them."""
    return self.streams and self.net.pad_mode == "zero"

  def num_active(self, bitrate: int) -> int:
    """Codebooks that `bitrate` bit/s pays for."""
    frame_rate = math.ceil(self.sample_rate / self.hop_length)
    per_codebook = math.log2(self.codebook_size) * frame_rate
    return min(self.num_codebooks, max(1, math.floor(bitrate / per_codebook)))

  def num_frames(self, num_samples: int) -> int:
    """Latents of a signal of `num_samples`."""
    if self.segment_length is None:
      return -(-num_samples // self.hop_length)
    whole = max(0, -(-num_samples // self.segment_stride) - 1)
    last = num_samples - whole * self.segment_stride
    return whole * self.segment_frames + -(-last // self.hop_length)

  def setup(self):
    self.encoder = SEANetEncoder(self.net)
    self.quantizer = ResidualVQ(self.num_codebooks, self.codebook_size, self.net.dimension)
    self.decoder = SEANetDecoder(self.net)

  def __call__(self, x):
    """[B, T, C] -> [B, T, C] through all codebooks; creates every parameter."""
    return self.decode(self.encode(x, self.num_codebooks))[:, : x.shape[1]]

  def encode(self, x, num_codebooks: int):
    """[B, T, C] -> int32 [B, F, num_codebooks], or `ScaledCodes` if the codec normalises."""
    if self.segment_length is None:
      return self.encode_chunk(x, None, num_codebooks, final=True)[0]
    starts = range(0, x.shape[1], self.segment_stride)
    *whole, last = [x[:, start : start + self.segment_length] for start in starts]
    parts = [self._encode_segments(last[:, None], num_codebooks)]
    if whole:
      parts.insert(0, self._encode_segments(jnp.stack(whole, axis=1), num_codebooks))
    codes = [part.codes.reshape(x.shape[0], -1, num_codebooks) for part in parts]
    scaled = ScaledCodes(
      jnp.concatenate(codes, axis=1), jnp.concatenate([part.scales for part in parts], axis=1)
    )
    return scaled if self.normalize else scaled.codes

  def decode(self, codes):
    """Inverse of `encode`, with `F * hop_length` samples or what the segments cover."""
    if self.segment_length is None:
      return self.decode_chunk(codes, None)[0]
    if not self.normalize:
      codes = ScaledCodes(
        codes, jnp.ones((codes.shape[0], -(-codes.shape[1] // self.segment_frames)))
      )
    codes, scales = codes
    batch, frames, stages = codes.shape
    count = scales.shape[1]
    if count != -(-frames // self.segment_frames):
      raise ValueError(f"{count} scales for {frames} frames in segments of {self.segment_frames}")
    split = (count - 1) * self.segment_frames
    whole = codes[:, :split].reshape(batch, count - 1, self.segment_frames, stages)
    last = self._decode_segments(codes[:, None, split:], scales[:, -1:])
    length = (count - 1) * self.segment_stride + last.shape[2]
    if count == 1:
      return last[:, 0]
    joined = self._decode_segments(whole, scales[:, :-1])
    last = jnp.pad(last, ((0, 0), (0, 0), (0, joined.shape[2] - last.shape[2]), (0, 0)))
    return F.overlap_add(jnp.concatenate([joined, last], axis=1), self.segment_stride, length)

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
