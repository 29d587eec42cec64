"""DAC, the Descript audio codec: full-band sound at a few kilobits a second.

The idea: activations that are periodic, as sound is, and a residual quantizer whose stages look
their codes up by angle among eight dimensions, so that hardly an entry stays unused. The network is
not causal.
Source: Kumar et al., https://arxiv.org/abs/2306.06546; github.com/descriptinc/descript-audio-codec.
"""

import math

import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.audio.sound_codec import SoundCodec
from jaxcodec.bottlenecks import FactorizedRVQ
from jaxcodec.decoders.dac import DacDecoder
from jaxcodec.encoders.dac import DacEncoder
from jaxcodec.layers.dac import DacConfig
from jaxcodec.layers.reach import Reach


class Dac(SoundCodec):
  """A neural sound codec of the DAC family.

  Attributes:
    sample_rate, bitrates, num_codebooks, codebook_size: as in `SoundCodec`.
    net: shape of encoder and decoder.
    codebook_features: dimensions of an entry.
  """

  net: DacConfig
  codebook_features: int = 8

  @property
  def hop_length(self) -> int:
    return math.prod(self.net.strides)

  @property
  def causal(self) -> bool:
    return False

  @property
  def signal_width(self) -> int:
    return self.net.decoder_width // 2 ** len(self.net.strides)

  @property
  def decoder_reach(self) -> Reach:
    return self.net.decoder_reach

  def setup(self):
    self.encoder = DacEncoder(self.net)
    self.quantizer = FactorizedRVQ(
      self.num_codebooks, self.codebook_size, self.net.dimension, self.codebook_features
    )
    self.decoder = DacDecoder(self.net)

  def latents_chunk(self, x, state, *, final: bool, length=None):
    """As `SoundCodec.latents_chunk`; zeros fill up the last frame, at the input."""
    hop = self.hop_length
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % hop), (0, 0)))
    # Zeros that fill up a frame belong to the row; `absent_as_zero` made them.
    length = None if length is None else -(-length // hop) * hop
    return super().latents_chunk(x, state, final=final, length=length)

  def decode_chunk(self, codes, state, *, final: bool, length=None):
    """As `SoundCodec.decode_chunk`; zeros stand for samples that odd strides lose at the end."""
    frames = codes.shape[1]
    y, state = super().decode_chunk(codes, state, final=final, length=length)
    if not final:
      return y, state
    if length is not None:
      # Counted from the end: before it stands what earlier chunks still owed.
      y = F.absent_as_zero(y, y.shape[1] - (frames - length) * self.hop_length)
    return jnp.pad(y, ((0, 0), (0, self.net.missing), (0, 0))), state


def bitrates(sample_rate: int, hop_length: int, num_codebooks: int, codebook_size: int):
  """Bit/s of 1, 2, ... codebooks, rounded."""
  per_codebook = math.log2(codebook_size) * sample_rate / hop_length
  return tuple(round(count * per_codebook) for count in range(1, num_codebooks + 1))
