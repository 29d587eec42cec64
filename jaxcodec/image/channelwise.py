"""The channel-wise model: slices of channels, each in view of slices before it, places at once.

What rounding takes away is foretold too: a bounded correction (latent residual prediction) is added
to each slice once it is decoded.
Source: Minnen and Singh, https://arxiv.org/abs/2007.08739; models/ms2020.py of TensorFlow
Compression.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.bottlenecks import EntropyBottleneck
from jaxcodec.image.picture_codec import Coded, PictureCodec, Rounded, keys, priced
from jaxcodec.image.transforms import gdn_analysis, gdn_synthesis
from jaxcodec.layers.picture import Conv2d, Deconv2d

LEAST_SCALE, MOST_SCALE, SCALE_LEVELS = 0.11, 256.0, 64


class ChannelWise(PictureCodec):
  """Attributes as of `PictureCodec`, and:

  slices: parts of the channels of y, of equal size.
  max_support: slices, the first of all, that a slice sees.
  widths: channels of a slice's network.
  """

  filters: int = 192
  latents: int = 320
  slices: int = 10
  max_support: int = 5
  widths: tuple[int, ...] = (224, 128)

  def setup(self):
    super().setup()
    n, m = self.filters, self.latents
    if m % self.slices:
      raise ValueError(f"latents={m} are not {self.slices} slices of equal size")
    middle = (n + m) // 2
    self.g_a, self.g_s = gdn_analysis(n, m), gdn_synthesis(n)
    down = [Conv2d(m, 3, 1), nn.relu, Conv2d(middle), nn.relu, Conv2d(n, use_bias=False)]
    self.h_a = nn.Sequential(down)
    self.h_means, self.h_scales = self._hyper_synthesis(), self._hyper_synthesis()
    self.entropy_bottleneck = EntropyBottleneck(n)
    self.means = [self._of_slice() for _ in range(self.slices)]
    self.scales = [self._of_slice() for _ in range(self.slices)]
    self.residuals = [self._of_slice() for _ in range(self.slices)]

  def _hyper_synthesis(self) -> nn.Sequential:
    middle = (self.filters + self.latents) // 2
    up = [Deconv2d(self.filters), nn.relu, Deconv2d(middle), nn.relu]
    return nn.Sequential([*up, Conv2d(self.latents, 3, 1)])

  def _of_slice(self) -> nn.Sequential:
    layers = [layer for width in self.widths for layer in (Conv2d(width, 5, 1), nn.relu)]
    return nn.Sequential([*layers, Conv2d(self.latents // self.slices, 3, 1)])

  def code(self, y, z, key=None, quality=None, rounded: Rounded = F.round_about) -> Coded:
    for_z, for_y = keys(key, 2)
    z_hat, of_z = self.side_information(z, for_z, rounded, always=True)
    side_means, side_scales = self.h_means(z_hat), self.h_scales(z_hat)
    done: list[jax.Array] = []
    found = []
    for i, part in enumerate(jnp.split(y, self.slices, axis=-1)):
      before = done[: self.max_support]
      support = jnp.concatenate([side_means, *before], axis=-1)
      means = self.means[i](support)
      scales = index_scale(self.scales[i](jnp.concatenate([side_scales, *before], axis=-1)))
      steps = rounded(part, means)
      residual = self.residuals[i](jnp.concatenate([support, steps], axis=-1))
      done.append(steps + 0.5 * jnp.tanh(residual))
      found.append((steps, scales, means))
    steps, scales, means = (jnp.concatenate(parts, axis=-1) for parts in zip(*found, strict=True))
    likelihood = F.gaussian_likelihood(priced(y, steps, for_y), scales, means)
    return self.coded(jnp.concatenate(done, axis=-1), likelihood, of_z, quality)


def index_scale(index):
  """The scale at a real place among 64 from 0.11 to 256, each a factor above the one before."""
  step = math.log(MOST_SCALE / LEAST_SCALE) / (SCALE_LEVELS - 1)
  index = jnp.clip(index, 0, SCALE_LEVELS - 1)
  return jnp.exp(math.log(LEAST_SCALE) + step * index)
