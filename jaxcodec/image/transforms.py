"""Transforms between pictures, latents at 1/16 and side information at 1/64 of their size.

Layers keep their places in the lists, activations counted, as their parameters' names: those are
the numbers of CompressAI's layers too.
"""

import flax.linen as nn

from jaxcodec.layers.gdn import GDN
from jaxcodec.layers.picture import (
  Attention,
  Conv2d,
  Deconv2d,
  InStrips,
  ResidualBlock,
  ResidualDown,
  ResidualUp,
  SpaceToDepth,
  Subpixel,
)


def gdn_analysis(filters: int, latents: int) -> nn.Sequential:
  """Pictures to latents. Source: Ballé et al., https://arxiv.org/abs/1802.01436, figure 4."""
  down = [layer for _ in range(3) for layer in (Conv2d(filters), GDN())]
  return InStrips([*down, Conv2d(latents)], end=4, rows=8)


def gdn_synthesis(filters: int, channels: int = 3) -> nn.Sequential:
  """Latents to pictures, `gdn_analysis` mirrored."""
  up = [layer for _ in range(3) for layer in (Deconv2d(filters), GDN(inverse=True))]
  return InStrips([*up, Deconv2d(channels)], begin=4, rows=16)


def relu_analysis(filters: int, latents: int) -> nn.Sequential:
  """`gdn_analysis` with rectifiers for norms."""
  down = [layer for _ in range(3) for layer in (Conv2d(filters), nn.relu)]
  return nn.Sequential([*down, Conv2d(latents)])


def relu_synthesis(filters: int, channels: int = 3) -> nn.Sequential:
  """`gdn_synthesis` with rectifiers for norms."""
  up = [layer for _ in range(3) for layer in (Deconv2d(filters), nn.relu)]
  return nn.Sequential([*up, Deconv2d(channels)])


def patch_analysis(filters: int, latents: int) -> nn.Sequential:
  """Pictures to latents, from patches of 4 x 4: no layer works at more than a quarter of the size.

  The first two layers of `gdn_analysis` take most of its time; a single one stands for them. That
  a coarse first step loses little is shown by Yang and Mandt, https://arxiv.org/abs/2304.06244.
  """
  n = filters
  first = [SpaceToDepth(4), Conv2d(n, 3, 1), GDN(), ResidualBlock(n)]
  return nn.Sequential([*first, Conv2d(n), GDN(), ResidualBlock(n), Conv2d(latents)])


def patch_synthesis(filters: int, channels: int = 3) -> nn.Sequential:
  """Latents to pictures, `patch_analysis` mirrored but for one block more."""
  n = filters
  first = [Deconv2d(n), GDN(inverse=True), ResidualBlock(n), ResidualBlock(n)]
  return nn.Sequential(
    [*first, Deconv2d(n), GDN(inverse=True), ResidualBlock(n), Subpixel(channels, 4)]
  )


def check_residual(filters: int, latents: int) -> None:
  """Raises ValueError if the residual transforms cannot have these sizes."""
  if filters != latents:
    raise ValueError(f"residual transforms have latents={filters}, as their filters, not {latents}")


def residual_analysis(filters: int, attention: bool = False) -> nn.Sequential:
  """Pictures to latents, with attention at a quarter of their size and at the end, or without.

  Source: Cheng et al., https://arxiv.org/abs/2001.01568, and its anchor.
  """
  n = filters
  down = [layer for _ in range(3) for layer in (ResidualDown(n), ResidualBlock(n))]
  layers = [*down, Conv2d(n, 3)]
  if attention:
    layers = [*layers[:3], Attention(n), *layers[3:], Attention(n)]
  return nn.Sequential(layers)


def residual_synthesis(filters: int, channels: int = 3, attention: bool = False) -> nn.Sequential:
  """Latents to pictures, `residual_analysis` mirrored."""
  n = filters
  up = [layer for _ in range(3) for layer in (ResidualBlock(n), ResidualUp(n))]
  layers = [*up, ResidualBlock(n), Subpixel(channels)]
  if attention:
    layers = [Attention(n), *layers[:4], Attention(n), *layers[4:]]
  return nn.Sequential(layers)


def hyper_analysis(filters: int, activation) -> nn.Sequential:
  """Latents to side information."""
  layers = [Conv2d(filters, 3, 1), activation, Conv2d(filters), activation, Conv2d(filters)]
  return nn.Sequential(layers)


def hyper_synthesis(latents: int) -> nn.Sequential:
  """Side information to 2 `latents` parameters of the mean-scale hyperprior and what follows it."""
  between = latents * 3 // 2
  layers = [Deconv2d(latents), nn.leaky_relu, Deconv2d(between), nn.leaky_relu]
  return nn.Sequential([*layers, Conv2d(2 * latents, 3, 1)])


def small_hyper_analysis(filters: int) -> nn.Sequential:
  """Latents to side information in 3x3 convolutions, for the residual transforms."""
  layers = []
  for stride in (1, 1, 2, 1):
    layers += [Conv2d(filters, 3, stride), nn.leaky_relu]
  return nn.Sequential([*layers, Conv2d(filters, 3, 2)])


def small_hyper_synthesis(filters: int) -> nn.Sequential:
  """Side information to 2 `filters` parameters in 3x3 convolutions."""
  n, act = filters, nn.leaky_relu
  layers = [Conv2d(n, 3, 1), act, Subpixel(n), act, Conv2d(n * 3 // 2, 3, 1), act]
  return nn.Sequential([*layers, Subpixel(n * 3 // 2), act, Conv2d(2 * n, 3, 1)])


def slim_hyper_analysis(filters: int) -> nn.Sequential:
  """Latents to side information in three 3x3 convolutions, for the transforms of patches."""
  act = nn.leaky_relu
  layers = [Conv2d(filters, 3, 1), act, Conv2d(filters, 3), act, Conv2d(filters, 3)]
  return nn.Sequential(layers)


def slim_hyper_synthesis(filters: int, latents: int) -> nn.Sequential:
  """Side information to 2 `latents` parameters, not widened between."""
  layers = [Deconv2d(filters), nn.leaky_relu, Deconv2d(latents), nn.leaky_relu]
  return nn.Sequential([*layers, Conv2d(2 * latents, 3, 1)])


def entropy_parameters(latents: int) -> nn.Sequential:
  """Parameters from those of side information and context, each place alone."""
  act = nn.leaky_relu
  layers = [Conv2d(latents * 10 // 3, 1, 1), act, Conv2d(latents * 8 // 3, 1, 1), act]
  return nn.Sequential([*layers, Conv2d(2 * latents, 1, 1)])
