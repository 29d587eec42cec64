"""Lyra V2: a SoundStream codec for speech on phones, 16 kHz at 3.2, 6 and 9.2 kbit/s.

The idea: convolutions that mostly see one channel (depthwise) or part of them (groups), so that a
phone runs them, around a residual quantizer of many small stages; 20 ms of speech are 16, 30 or 46
codes of four bits. Nothing looks ahead. The float networks are here; `lyra_exact` has them with the
integers that the released files compute with.
Source: Zeghidour et al., https://arxiv.org/abs/2107.03312; github.com/google/lyra.
"""

import dataclasses
import math

import flax.linen as nn

from jaxcodec.audio.sound_codec import SoundCodec
from jaxcodec.bottlenecks import ResidualVQ
from jaxcodec.layers import reach
from jaxcodec.layers.chain import Chain
from jaxcodec.layers.conv import Conv1d, ConvTranspose1d, DepthwiseConv1d

SLOPE = 0.3


@dataclasses.dataclass(frozen=True, kw_only=True)
class LyraConfig:
  """Shape of the encoder and of the decoder that mirrors it; a level is a convolution and units.

  Attributes:
    widths: channels after each level's convolution.
    kernel_sizes, strides, groups: of these convolutions; the strides' product is the hop length.
    unit_groups: groups of the last convolution in a residual unit, for each level that has units:
      all but the last.
    dilations: of a level's residual units.
    features: of a latent.
    last_kernel_size, last_groups: of the convolution from the last level to the latents.
  """

  widths: tuple[int, ...] = (64, 128, 256, 512)
  kernel_sizes: tuple[int, ...] = (64, 10, 4, 4)
  strides: tuple[int, ...] = (16, 5, 2, 2)
  groups: tuple[int, ...] = (1, 1, 2, 4)
  unit_groups: tuple[int, ...] = (1, 2, 4)
  dilations: tuple[int, ...] = (1, 3, 9)
  features: int = 64
  last_kernel_size: int = 3
  last_groups: int = 4

  def __post_init__(self):
    levels = {len(x) for x in (self.widths, self.kernel_sizes, self.strides, self.groups)}
    if levels != {len(self.unit_groups) + 1} or not self.dilations:
      raise ValueError(
        "a level has a width, kernel size, stride and groups; all but the last, units"
      )
    pairs = list(zip(self.kernel_sizes, self.strides, strict=True))
    if any(not 1 <= stride <= size for size, stride in pairs) or self.last_kernel_size < 1:
      raise ValueError(f"kernels {self.kernel_sizes} do not cover strides {self.strides}")

  def down(self, level: int) -> Conv1d:
    """The encoder's convolution into a level."""
    width, size = self.widths[level], self.kernel_sizes[level]
    stride, groups = self.strides[level], self.groups[level]
    return Conv1d(width, size, stride=stride, groups=groups, name=f"down_{level}")

  def up(self, level: int) -> ConvTranspose1d:
    """The decoder's convolution out of a level."""
    width, size = self.widths[level - 1] if level else 1, self.kernel_sizes[level]
    stride, groups = self.strides[level], self.groups[level]
    return ConvTranspose1d(width, size, stride, groups=groups, name=f"up_{level}")

  def units(self, level: int) -> list[tuple[int, int, str]]:
    """Groups, dilation and name of a level's residual units, in order."""
    if level >= len(self.unit_groups):
      return []
    groups = self.unit_groups[level]
    return [(groups, dilation, f"unit_{level}_{i}") for i, dilation in enumerate(self.dilations)]


class Lyra(SoundCodec):
  """The float form of Lyra V2; with the released weights it is their dequantized form.

  Attributes:
    sample_rate, bitrates, num_codebooks, codebook_size: as in `SoundCodec`.
    net: shape of encoder and decoder.
  """

  sample_rate: int = 16_000
  bitrates: tuple[int, ...] = (3200, 6000, 9200)
  net: LyraConfig = LyraConfig()
  num_codebooks: int = 46
  codebook_size: int = 16

  @property
  def hop_length(self) -> int:
    return math.prod(self.net.strides)

  @property
  def causal(self) -> bool:
    return True

  @property
  def signal_width(self) -> int:
    return max(1, self.net.widths[0] // self.net.strides[0])

  @property
  def decoder_reach(self) -> reach.Reach:
    net, found = self.net, reach.Reach()
    for level, (size, stride) in enumerate(zip(net.kernel_sizes, net.strides, strict=True)):
      found = reach.conv_transpose(found, size, stride)
      for _, dilation, _ in net.units(level):
        found = reach.conv(found, 3, dilation)
    return reach.conv(found, net.last_kernel_size)

  def setup(self):
    self.encoder = LyraEncoder(self.net)
    self.quantizer = ResidualVQ(self.num_codebooks, self.codebook_size, self.net.features)
    self.decoder = LyraDecoder(self.net)


class ResidualUnit(nn.Module):
  """x + conv_1(leaky(conv_0(depthwise(leaky(x))))): only the depthwise convolution sees time."""

  groups: int
  dilation: int

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    run, width = Chain(state, final, length), x.shape[-1]
    y = run(DepthwiseConv1d(3, self.dilation, name="depthwise"), leaky(x))
    y = run(Conv1d(width, 1, name="conv_0"), y)
    y = run(Conv1d(width, 1, groups=self.groups, name="conv_1"), leaky(y))
    return x + y, run.after


class LyraEncoder(nn.Module):
  """[B, T, 1] -> ([B, T / hop_length, features], state)."""

  config: LyraConfig

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    config, run = self.config, Chain(state, final, length)
    for level in range(len(config.widths)):
      x = run(config.down(level), leaky(x) if level else x)
      for groups, dilation, name in config.units(level):
        x = run(ResidualUnit(groups, dilation, name=name), x)
    size, groups = config.last_kernel_size, config.last_groups
    last = Conv1d(config.features, size, groups=groups, name="conv_out")
    return run(last, leaky(x)), run.after


class LyraDecoder(nn.Module):
  """[B, F, features] -> ([B, F * hop_length, 1], state). Beyond [-1, 1] at times: clip a file."""

  config: LyraConfig

  @nn.compact
  def __call__(self, z, state=None, final: bool = True, length=None):
    config, run = self.config, Chain(state, final, length)
    size, groups = config.last_kernel_size, config.last_groups
    x = run(Conv1d(config.widths[-1], size, groups=groups, name="conv_in"), z)
    for level in reversed(range(len(config.widths))):
      for groups, dilation, name in config.units(level):
        x = run(ResidualUnit(groups, dilation, name=name), x)
      x = run(config.up(level), leaky(x))
    return x, run.after


def leaky(x):
  return nn.leaky_relu(x, SLOPE)
