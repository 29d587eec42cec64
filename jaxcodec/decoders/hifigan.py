"""HiFi-GAN's generator: latents or a mel spectrum, frame by frame, to sound.

Source: Kong et al., https://arxiv.org/abs/2010.05646, V1; github.com/jik876/hifi-gan.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec.layers import reach
from jaxcodec.layers.chain import Chain
from jaxcodec.layers.conv import Conv1d, ConvTranspose1d
from jaxcodec.layers.reach import Reach

_SLOPE = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class HifiGanConfig:
  """Shape of the generator.

  Attributes:
    width: channels at the latents' rate; they halve with every stride.
    strides: first to last; their product is the hop length.
    kernel_sizes: of the layers that change the rate, each its stride and an even number more.
    block_kernels: of the parallel residual blocks after each of them.
    dilations: within a residual block.
    last_slope: of the activation before the last layer, below zero.
  """

  width: int = 512
  strides: tuple[int, ...] = (8, 8, 2, 2)
  kernel_sizes: tuple[int, ...] = (16, 16, 4, 4)
  block_kernels: tuple[int, ...] = (3, 7, 11)
  dilations: tuple[int, ...] = (1, 3, 5)
  last_slope: float = 0.01

  @property
  def reach(self) -> Reach:
    """Latents that a sample depends on."""
    found, widest = reach.conv(Reach(), 7, causal=False), max(self.block_kernels)
    layers = zip(reversed(self.strides), reversed(self.kernel_sizes), strict=True)
    for stride, kernel_size in layers:
      for dilation in self.dilations:
        found = reach.conv(found, widest, causal=False)
        found = reach.conv(found, widest, dilation, causal=False)
      found = reach.conv_transpose(found, kernel_size, stride, causal=False)
    return reach.conv(found, 7, causal=False)


class HifiGan(nn.Module):
  """[B, F, D] -> ([B, F * hop_length, 1], state), within (-1, 1)."""

  config: HifiGanConfig

  @nn.compact
  def __call__(self, z, state=None, final: bool = True, length=None):
    config, width = self.config, self.config.width
    run = Chain(state, final, length)
    x = run(conv(width, 7, "conv_in"), z)
    layers = zip(config.strides, config.kernel_sizes, strict=True)
    for i, (stride, taps) in enumerate(layers):
      width //= 2
      up = ConvTranspose1d(width, taps, stride, causal=False, name=f"up_{i}")
      x = run(up, nn.leaky_relu(x, _SLOPE))
      x = run(Mean(config.block_kernels, config.dilations, name=f"blocks_{i}"), x)
    x = run(conv(1, 7, "conv_out"), nn.leaky_relu(x, config.last_slope))
    return jnp.tanh(x), run.after


class Mean(nn.Module):
  """The mean of parallel residual blocks of different kernels."""

  block_kernels: tuple[int, ...]
  dilations: tuple[int, ...]

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    run = Chain(state, final, length)
    branches = []
    for i, taps in enumerate(self.block_kernels):
      # Each branch takes the same steps.
      run.length = length
      branches.append(run(ResidualBlock(taps, self.dilations, name=f"block_{i}"), x))
    return sum(run.level(*branches)) / len(branches), run.after


class ResidualBlock(nn.Module):
  """Residual units in turn, one a dilation; HiFi-GAN's first kind of block."""

  taps: int
  dilations: tuple[int, ...]

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    run = Chain(state, final, length)
    for i, dilation in enumerate(self.dilations):
      x = run(ResidualUnit(self.taps, dilation, name=f"unit_{i}"), x)
    return x, run.after


class ResidualUnit(nn.Module):
  """x + conv(leaky(conv(leaky(x)))), the inner convolution dilated."""

  taps: int
  dilation: int

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    run, width = Chain(state, final, length), x.shape[-1]
    inner = conv(width, self.taps, "conv_0", dilation=self.dilation)
    y = run(inner, nn.leaky_relu(x, _SLOPE))
    y = run(conv(width, self.taps, "conv_1"), nn.leaky_relu(y, _SLOPE))
    return run.add(x, y), run.after


def conv(features: int, taps: int, name: str, **window: int) -> Conv1d:
  """A centred convolution of a signal between zeros."""
  return Conv1d(features, taps, causal=False, name=name, **window)
