"""ELIC: uneven groups of channels, a checkerboard within each.

The first groups hold little and are seen by all that follow: most of a picture's bits are in few
channels.
Source: He et al., https://arxiv.org/abs/2203.10886; "elic2022-official" of CompressAI.
"""

import itertools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.bottlenecks import EntropyBottleneck
from jaxcodec.image.checkerboard import two_passes
from jaxcodec.image.picture_codec import Coded, PictureCodec, Rounded, keys, priced
from jaxcodec.image.transforms import gdn_analysis, gdn_synthesis, hyper_analysis
from jaxcodec.layers.picture import Attention, Bottleneck, Conv2d, Deconv2d, split


class Elic(PictureCodec):
  """Attributes as of `PictureCodec`, and:

  groups: the channels of each group, together `latents`.
  transform: "residual", ELIC's, or "gdn", those of the joint model, which take less time.
  widths: channels of the networks that see the groups before.
  """

  filters: int = 192
  latents: int = 320
  groups: tuple[int, ...] = (16, 16, 32, 64, 192)
  transform: Literal["residual", "gdn"] = "residual"
  widths: tuple[int, ...] = (224, 128)

  def setup(self):
    super().setup()
    n, m = self.filters, self.latents
    if sum(self.groups) != m:
      raise ValueError(f"groups {self.groups} are not {m} latents together")
    if self.transform == "gdn":
      self.g_a, self.g_s = gdn_analysis(n, m), gdn_synthesis(n)
    else:
      down = [Conv2d(n), *_three(n), Conv2d(n), *_three(n), Attention(n), Conv2d(n), *_three(n)]
      self.g_a = nn.Sequential([*down, Conv2d(m), Attention(m)])
      up = [Attention(m), Deconv2d(n), *_three(n), Deconv2d(n), Attention(n), *_three(n)]
      self.g_s = nn.Sequential([*up, Deconv2d(n), *_three(n), Deconv2d(3)])
    self.h_a = hyper_analysis(n, nn.relu)
    side = [Deconv2d(n), nn.relu, Deconv2d(n * 3 // 2), nn.relu, Deconv2d(2 * n, 3, 1)]
    self.h_s = nn.Sequential(side)
    self.entropy_bottleneck = EntropyBottleneck(n)
    self.channel_context = [_channel_context(size, self.widths) for size in self.groups[1:]]
    self.context_prediction = [
      Conv2d(2 * size, 5, 1, mask=F.checkerboard_mask) for size in self.groups
    ]
    self.entropy_parameters = [
      _aggregation(2 * size * (1 + (k > 0)) + 2 * n, 2 * size, 2 * n)
      for k, size in enumerate(self.groups)
    ]

  def code(self, y, z, key=None, quality=None, rounded: Rounded = F.round_about) -> Coded:
    for_z, for_y = keys(key, 2)
    z_hat, of_z = self.side_information(z, for_z, rounded, always=True)
    side, parameters = self.h_s(z_hat), []
    done: list[jax.Array] = []
    bounds = list(itertools.accumulate(self.groups))[:-1]
    for k, part in enumerate(jnp.split(y, bounds, axis=-1)):
      known = side
      if k:
        before = self.channel_context[k - 1](jnp.concatenate(done, axis=-1))
        known = jnp.concatenate([before, side], axis=-1)
      networks = self.context_prediction[k], self.entropy_parameters[k]
      y_hat, found = two_passes(part, known, *networks, rounded)
      done.append(y_hat)
      parameters.append(split(found))
    scales, means = (jnp.concatenate(parts, axis=-1) for parts in zip(*parameters, strict=True))
    y_hat = jnp.concatenate(done, axis=-1)
    likelihood = F.gaussian_likelihood(priced(y, y_hat, for_y), scales, means)
    return self.coded(y_hat, likelihood, of_z, quality)


def _three(features: int) -> list[Bottleneck]:
  return [Bottleneck(features) for _ in range(3)]


def _channel_context(size: int, widths: tuple[int, ...]) -> nn.Sequential:
  layers = [layer for width in widths for layer in (Conv2d(width, 5, 1), nn.relu)]
  return nn.Sequential([*layers, Conv2d(2 * size, 5, 1)])


def _aggregation(before: int, after: int, least: int) -> nn.Sequential:
  """Three layers of widths that fall evenly from `before` to `after`, none within below `least`."""
  one, two = (max(int(before + (after - before) * i / 3), least) for i in (1, 2))
  layers = [Conv2d(one, 1, 1), nn.relu, Conv2d(two, 1, 1), nn.relu, Conv2d(after, 1, 1)]
  return nn.Sequential(layers)
