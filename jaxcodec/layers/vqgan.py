"""What the encoder and the decoder of VQGAN share: its shape, its blocks, and its two resamplings.

Pictures are [B, H, W, C]. Source: Esser et al., https://arxiv.org/abs/2012.09841, and
taming/modules/diffusionmodules/model.py of its code.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec.layers.attend import Attend


@dataclasses.dataclass(frozen=True, kw_only=True)
class VqganConfig:
  """Both networks.

  Attributes:
    width: channels at full resolution.
    multipliers: of the width at each level; from one level to the next both sides are halved.
    num_blocks: residual blocks of a level of the encoder; the decoder has one more.
    attention_levels: those where each block is followed by attention over the whole picture.
    latent_width: channels where the networks meet, beside the quantizer.
    groups: of channels, normalised together; every width is a multiple.
  """

  width: int = 128
  multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
  num_blocks: int = 2
  attention_levels: tuple[int, ...] = (4,)
  latent_width: int = 256
  groups: int = 32

  @property
  def stride(self) -> int:
    """Pixels along each side of what one latent stands for."""
    return 2 ** (len(self.multipliers) - 1)

  @property
  def widths(self) -> tuple[int, ...]:
    """Channels of each level."""
    return tuple(self.width * factor for factor in self.multipliers)


def conv(features: int, size: int, name: str) -> nn.Conv:
  """A convolution of `size` x `size` taps that keeps height and width."""
  return nn.Conv(features, (size, size), padding="SAME", name=name)


def norm(groups: int, name: str) -> nn.GroupNorm:
  return nn.GroupNorm(num_groups=groups, epsilon=1e-6, use_fast_variance=False, name=name)


class ResidualBlock(nn.Module):
  """Two normed convolutions beside a path that changes nothing but the width.

  Attributes:
    features: output channels.
    groups: see `VqganConfig`.
  """

  features: int
  groups: int

  @nn.compact
  def __call__(self, x):
    y = conv(self.features, 3, "conv_0")(nn.swish(norm(self.groups, "norm_0")(x)))
    y = conv(self.features, 3, "conv_1")(nn.swish(norm(self.groups, "norm_1")(y)))
    return y + (x if x.shape[-1] == self.features else conv(self.features, 1, "skip")(x))


class AttentionBlock(nn.Module):
  """Attention of one head among all places, added to what came in.

  Attributes:
    groups: see `VqganConfig`.
  """

  groups: int

  @nn.compact
  def __call__(self, x):
    batch, height, width, features = x.shape
    y = norm(self.groups, "norm")(x).reshape(batch, height * width, features)
    q, k, v = (nn.Dense(features, name=name)(y)[:, :, None] for name in ("query", "key", "value"))
    y = nn.Dense(features, name="out")(Attend()(q, k, v)[:, :, 0])
    return x + y.reshape(x.shape)


class Halve(nn.Module):
  """Both sides halved by a strided convolution; zeros below and to the right alone."""

  @nn.compact
  def __call__(self, x):
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    return nn.Conv(x.shape[-1], (3, 3), (2, 2), padding="VALID", name="conv")(x)


class Double(nn.Module):
  """Each pixel four times, then a convolution."""

  @nn.compact
  def __call__(self, x):
    batch, height, width, features = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, features))
    return conv(features, 3, "conv")(x.reshape(batch, 2 * height, 2 * width, features))
