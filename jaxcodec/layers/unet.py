"""The U-shaped network of latent diffusion, its two halves apart.

An encoder's features change slowly from step to step of a sampler; a caller that keeps them for
some steps runs `decode` alone. x is [B, H, W, C], t [B] a step, the context [B, N, D].
Source: Rombach et al., https://arxiv.org/abs/2112.10752, and openaimodel.py of its code.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.layers.attend import Attend
from jaxcodec.layers.vqgan import Double


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetConfig:
  """Shape of the network.

  Attributes:
    channels: that come in and go out.
    width: at full resolution; a multiple of `groups`.
    multipliers: of the width at each level; from one level to the next both sides are halved.
    num_blocks: residual blocks of a level of the encoder; the decoder has one more.
    attention_levels: those where each block is followed by attention, to x itself and then to the
      context; the middle has it as well.
    head_width: of attention.
    groups: of channels, normalised together.
  """

  channels: int = 8
  width: int = 64
  multipliers: tuple[int, ...] = (1, 2, 3, 5)
  num_blocks: int = 2
  attention_levels: tuple[int, ...] = (1, 2, 3)
  head_width: int = 32
  groups: int = 32

  @property
  def stride(self) -> int:
    """What both sides of x are multiples of."""
    return 2 ** (len(self.multipliers) - 1)


class UNet(nn.Module):
  """What a step of diffusion predicts of x, of its shape; zero at the start of training."""

  config: UNetConfig

  def setup(self):
    self.time = TimeEmbedding(self.config.width)
    self.encoder = UNetEncoder(self.config)
    self.decoder = UNetDecoder(self.config)

  def __call__(self, x, t, context):
    return self.decode(self.encode(x, t, context), t, context)

  def encode(self, x, t, context):
    """What the decoder is given: features of all levels, those of the middle last."""
    return self.encoder(x, self.time(t), context)

  def decode(self, features, t, context):
    """[B, H, W, C] from what `encode` gave, of this step or of one before."""
    return self.decoder(features, self.time(t), context)


class TimeEmbedding(nn.Module):
  """[B] -> [B, 4 width]."""

  width: int

  @nn.compact
  def __call__(self, t):
    y = nn.Dense(4 * self.width, name="up")(F.step_embedding(t, self.width))
    return nn.Dense(4 * self.width, name="out")(nn.swish(y))


class UNetEncoder(nn.Module):
  """Down to the middle: `(x, embedded step, context) -> features`."""

  config: UNetConfig

  @nn.compact
  def __call__(self, x, time, context):
    config = self.config
    x = _conv(config.width, "conv_in")(x)
    found = [x]
    for level, factor in enumerate(config.multipliers):
      for i in range(config.num_blocks):
        x = Stage(config, factor * config.width, level, name=f"block_{level}_{i}")(x, time, context)
        found.append(x)
      if level < len(config.multipliers) - 1:
        down = nn.Conv(x.shape[-1], (3, 3), (2, 2), padding=((1, 1), (1, 1)), name=f"down_{level}")
        x = down(x)
        found.append(x)
    width = config.multipliers[-1] * config.width
    x = Stage(config, width, None, name="middle_0")(x, time, context)
    found.append(TimeBlock(width, config.groups, name="middle_1")(x, time))
    return found


class UNetDecoder(nn.Module):
  """Up from the middle: `(features, embedded step, context) -> x`."""

  config: UNetConfig

  @nn.compact
  def __call__(self, features, time, context):
    config, features = self.config, list(features)
    x = features.pop()
    for level, factor in reversed(tuple(enumerate(config.multipliers))):
      for i in range(config.num_blocks + 1):
        x = jnp.concatenate([x, features.pop()], axis=-1)
        x = Stage(config, factor * config.width, level, name=f"block_{level}_{i}")(x, time, context)
      if level:
        x = Double(name=f"up_{level}")(x)
    x = nn.swish(_norm(config.groups, "norm_out", 1e-5)(x))
    return _conv(config.channels, "conv_out", zero=True)(x)


class Stage(nn.Module):
  """A residual block, and attention where its level has it; None stands for the middle."""

  config: UNetConfig
  features: int
  level: int | None

  @nn.compact
  def __call__(self, x, time, context):
    config = self.config
    x = TimeBlock(self.features, config.groups, name="block")(x, time)
    if self.level is None or self.level in config.attention_levels:
      x = SpatialTransformer(config.head_width, config.groups, name="self")(x, None)
      x = SpatialTransformer(config.head_width, config.groups, name="cross")(x, context)
    return x


class TimeBlock(nn.Module):
  """Two normed convolutions, the step added between them, beside a path that changes the width."""

  features: int
  groups: int

  @nn.compact
  def __call__(self, x, time):
    y = _conv(self.features, "conv_0")(nn.swish(_norm(self.groups, "norm_0", 1e-5)(x)))
    y = y + nn.Dense(self.features, name="time")(nn.swish(time))[:, None, None]
    y = nn.swish(_norm(self.groups, "norm_1", 1e-5)(y))
    y = _conv(self.features, "conv_1", zero=True)(y)
    return y + (x if x.shape[-1] == self.features else nn.Dense(self.features, name="skip")(x))


class SpatialTransformer(nn.Module):
  """A layer of a Transformer over all places, added to x; without a context both of its attentions
  are to x."""

  head_width: int
  groups: int

  @nn.compact
  def __call__(self, x, context):
    width, rows = x.shape[-1], (x.shape[0], x.shape[1] * x.shape[2], x.shape[-1])
    y = nn.Dense(width, name="in")(_norm(self.groups, "norm", 1e-6)(x)).reshape(rows)

    def norm(name: str, y):
      return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)(y)

    y = y + CrossAttention(self.head_width, name="first")(norm("first_norm", y), None)
    y = y + CrossAttention(self.head_width, name="second")(norm("second_norm", y), context)
    up, gate = jnp.split(nn.Dense(8 * width, name="up")(norm("up_norm", y)), 2, axis=-1)
    y = y + nn.Dense(width, name="down")(up * nn.gelu(gate, approximate=False))
    out = nn.Dense(width, kernel_init=nn.initializers.zeros, name="out")
    return x + out(y).reshape(x.shape)


class CrossAttention(nn.Module):
  """Places [B, N, D] to those of a context [B, M, E], themselves if None."""

  head_width: int

  @nn.compact
  def __call__(self, x, context):
    width, seen = x.shape[-1], x if context is None else context

    def heads(x, name: str):
      y = nn.Dense(width, use_bias=False, name=name)(x)
      return y.reshape(*x.shape[:2], width // self.head_width, self.head_width)

    q, k, v = heads(x, "query"), heads(seen, "key"), heads(seen, "value")
    return nn.Dense(width, name="out")(Attend()(q, k, v).reshape(x.shape))


def _conv(features: int, name: str, *, zero: bool = False) -> nn.Conv:
  init = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
  return nn.Conv(features, (3, 3), padding="SAME", kernel_init=init, name=name)


def _norm(groups: int, name: str, epsilon: float) -> nn.GroupNorm:
  return nn.GroupNorm(groups, epsilon=epsilon, use_fast_variance=False, name=name)
