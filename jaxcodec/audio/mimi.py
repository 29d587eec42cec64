"""Mimi: a causal speech codec of 12.5 frames a second.

The idea: few frames, so that a language model can follow. SEANet brings sound to 25 Hz, a
Transformer that sees ten seconds of the past makes each latent know its context, and a strided
convolution halves the rate. The first of the codebooks is distilled from a speech model and carries
what is said; the others, beside and not after it, carry how it sounds.
Source: Defossez et al., https://arxiv.org/abs/2410.00037, section 3.3; kyutai-labs/moshi.
"""

import dataclasses
import math

import flax.linen as nn

from jaxcodec.audio.sound_codec import SoundCodec
from jaxcodec.bottlenecks.split import SplitRVQ
from jaxcodec.decoders.seanet import SEANetDecoder
from jaxcodec.encoders.seanet import SEANetEncoder
from jaxcodec.layers import reach
from jaxcodec.layers.chain import Chain
from jaxcodec.layers.conv import Conv1d, DepthwiseConvTranspose1d
from jaxcodec.layers.seanet import SEANetConfig
from jaxcodec.layers.transformer import WindowTransformer


@dataclasses.dataclass(frozen=True, kw_only=True)
class MimiConfig:
  """Shape of Mimi's two halves.

  Attributes:
    net: of the convolutions, causal and padded with zeros.
    num_layers, num_heads, hidden, window, base: see `WindowTransformer`.
    stride: latents of the Transformer per frame.
    scan_layers: `WindowTransformer.scan`; released weights have layers one by one.
  """

  net: SEANetConfig
  num_layers: int = 8
  num_heads: int = 8
  hidden: int = 2048
  window: int = 250
  base: float = 10_000.0
  stride: int = 2
  scan_layers: bool = False

  def transformer(self) -> WindowTransformer:
    return WindowTransformer(
      self.num_layers,
      self.num_heads,
      self.hidden,
      self.window,
      self.base,
      self.scan_layers,
      name="transformer",
    )


class MimiEncoder(nn.Module):
  """[B, T, channels] -> ([B, T / hop_length, dimension], state)."""

  config: MimiConfig

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    config, run = self.config, Chain(state, final, length)
    x = run(SEANetEncoder(config.net, name="seanet"), x)
    x = run(config.transformer(), x)
    down = Conv1d(
      config.net.dimension,
      2 * config.stride,
      config.stride,
      pad_mode="replicate",
      use_bias=False,
      name="down",
    )
    return run(down, x), run.after


class MimiDecoder(nn.Module):
  """[B, F, dimension] -> ([B, F * hop_length, channels], state)."""

  config: MimiConfig

  @nn.compact
  def __call__(self, z, state=None, final: bool = True, length=None):
    config, run = self.config, Chain(state, final, length)
    x = run(DepthwiseConvTranspose1d(2 * config.stride, config.stride, name="up"), z)
    x = run(config.transformer(), x)
    return run(SEANetDecoder(config.net, name="seanet"), x), run.after


class Mimi(SoundCodec):
  """A neural speech codec of the Mimi family.

  Attributes:
    sample_rate, bitrates, num_codebooks, codebook_size: as in `SoundCodec`.
    config: shape of the halves.
    codebook_features: size of an entry.
  """

  config: MimiConfig
  codebook_features: int

  @property
  def channels(self) -> int:
    return self.config.net.channels

  @property
  def hop_length(self) -> int:
    return math.prod(self.config.net.strides) * self.config.stride

  @property
  def causal(self) -> bool:
    return True

  @property
  def signal_width(self) -> int:
    return self.config.net.num_filters

  @property
  def decoder_reach(self) -> reach.Reach:
    config, found = self.config, self.config.net.decoder_reach
    for _ in range(config.num_layers):
      found = reach.window(found, config.window)
    return reach.conv_transpose(found, 2 * config.stride, config.stride)

  def setup(self):
    self.encoder = MimiEncoder(self.config)
    self.quantizer = SplitRVQ(
      self.num_codebooks, self.codebook_size, self.codebook_features, self.config.net.dimension
    )
    self.decoder = MimiDecoder(self.config)
