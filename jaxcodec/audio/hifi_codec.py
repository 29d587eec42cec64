"""HiFi-Codec: speech as four codes a frame.

The idea: the channels of a latent are cut into two groups, each with a residual quantizer of two
stages; so four codes carry what a plain residual quantizer needs more for. The decoder is the
HiFi-GAN vocoder, the encoder its mirror image, whose norms take their statistics from the whole
signal: it is coded whole, and decoded in chunks of any size.
Source: Yang et al., https://arxiv.org/abs/2305.02765; github.com/yangdongchao/AcademiCodec,
academicodec/models/hificodec. Vocoder: Kong et al., https://arxiv.org/abs/2010.05646, V1.
"""

import dataclasses
import math

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec.audio.sound_codec import SoundCodec
from jaxcodec.bottlenecks import GroupResidualVQ
from jaxcodec.decoders.hifigan import HifiGan, HifiGanConfig, ResidualBlock, conv
from jaxcodec.layers.chain import Chain
from jaxcodec.layers.norms import TimeGroupNorm
from jaxcodec.layers.reach import Reach

_SLOPE = 0.1
# PyTorch's own, which stands before the encoder's last layer alone.
_LAST_SLOPE = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiFiConfig:
  """Shape of the encoder and of the decoder.

  Attributes:
    encoder_width: channels at the signal's rate; they double with every stride.
    decoder_width: channels at the latents' rate; they halve with every stride.
    strides: of the encoder, first to last; their product is the hop length.
    kernel_sizes: of the layers that change the rate, each its stride and an even number more.
    block_kernels: of the parallel residual blocks after each of them, as the decoder has them.
    dilations: within a residual block.
    group_width: channels that the encoder's norms take together.
    dimension: features of a latent.
  """

  encoder_width: int = 32
  decoder_width: int = 512
  strides: tuple[int, ...] = (2, 4, 5, 8)
  kernel_sizes: tuple[int, ...] = (4, 8, 11, 16)
  block_kernels: tuple[int, ...] = (3, 7, 11)
  dilations: tuple[int, ...] = (1, 3, 5)
  group_width: int = 16
  dimension: int = 512

  @property
  def decoder(self) -> HifiGanConfig:
    """The generator, which the encoder mirrors."""
    return HifiGanConfig(
      width=self.decoder_width,
      strides=self.strides[::-1],
      kernel_sizes=self.kernel_sizes[::-1],
      block_kernels=self.block_kernels,
      dilations=self.dilations,
      last_slope=_SLOPE,
    )


class HiFiCodec(SoundCodec):
  """A neural sound codec of the HiFi-Codec family.

  Attributes:
    sample_rate, bitrates, codebook_size: as in `SoundCodec`.
    num_codebooks: of all groups together.
    net: shape of encoder and decoder.
    num_groups: of channels, each with `num_codebooks / num_groups` stages.
  """

  net: HiFiConfig
  num_groups: int = 2

  @property
  def hop_length(self) -> int:
    return math.prod(self.net.strides)

  @property
  def fewest_codebooks(self) -> int:
    return self.num_groups

  @property
  def causal(self) -> bool:
    return False

  @property
  def encoder_streams(self) -> bool:
    return False

  @property
  def signal_width(self) -> int:
    return self.net.decoder_width // 2 ** len(self.net.strides)

  @property
  def decoder_reach(self) -> Reach:
    return self.net.decoder.reach

  def setup(self):
    if self.num_codebooks % self.num_groups:
      raise ValueError(f"{self.num_codebooks} codebooks for {self.num_groups} groups of channels")
    self.encoder = HiFiEncoder(self.net)
    self.quantizer = GroupResidualVQ(
      self.num_groups,
      self.num_codebooks // self.num_groups,
      self.codebook_size,
      self.net.dimension,
    )
    self.decoder = HifiGan(self.net.decoder)

  def latents_chunk(self, x, state, *, final: bool, length=None):
    """As `SoundCodec.latents_chunk` of a whole signal; zeros fill up a frame, at the input."""
    hop = self.hop_length
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % hop), (0, 0)))
    # Zeros that fill up a frame belong to the row.
    length = None if length is None else -(-length // hop) * hop
    return self.encoded(x, state, final, length)

  def quantize(self, z, num_codebooks: int):
    """As `SoundCodec.quantize`: stage by stage, the groups of a stage side by side."""
    return self.quantizer.encode(z, num_codebooks // self.num_groups)


class HiFiEncoder(nn.Module):
  """[B, F * hop_length, 1] -> ([B, F, dimension], state), the signal whole."""

  config: HiFiConfig

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    config, width = self.config, self.config.encoder_width
    run = Chain(state, final, length)
    x = run(conv(width, 7, "conv_in"), x)
    for i, (stride, taps) in enumerate(zip(config.strides, config.kernel_sizes, strict=True)):
      width *= 2
      x = nn.leaky_relu(x, _SLOPE)
      x = run(conv(width, taps, f"down_{i}", stride=stride), x)
      x = run(Normed(config, name=f"blocks_{i}"), x)
    x = nn.leaky_relu(x, _LAST_SLOPE)
    return run(conv(config.dimension, 3, "conv_out"), x), run.after


class Normed(nn.Module):
  """Parallel residual blocks, the widest kernel first; the sum so far is normalised after each."""

  config: HiFiConfig

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    config, run, total = self.config, Chain(state, final, length), jnp.zeros_like(x)
    for i, taps in enumerate(reversed(config.block_kernels)):
      total = total + run(ResidualBlock(taps, config.dilations, name=f"block_{i}"), x)
      total = run(TimeGroupNorm(x.shape[-1] // config.group_width, name=f"norm_{i}"), total)
    return total / len(config.block_kernels), run.after
