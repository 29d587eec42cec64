"""Hyperpriors: a few bits, decoded first, say how the latents are spread, place by place.

Sources: Ballé et al., https://arxiv.org/abs/1802.01436 (scales); Minnen et al.,
https://arxiv.org/abs/1809.02736 (means too); "bmshj2018-hyperprior" and "mbt2018-mean" of
CompressAI.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.bottlenecks import EntropyBottleneck
from jaxcodec.image.picture_codec import Coded, PictureCodec, Rounded, keys, priced
from jaxcodec.image.transforms import gdn_analysis, gdn_synthesis, hyper_analysis, hyper_synthesis
from jaxcodec.layers.picture import Conv2d, Deconv2d, split


class ScaleHyperprior(PictureCodec):
  """Latents are normal about zero, with scales from z. Attributes as of `PictureCodec`."""

  def setup(self):
    super().setup()
    n = self.filters
    self.g_a, self.g_s = gdn_analysis(n, self.latents), gdn_synthesis(n)
    self.h_a = hyper_analysis(n, nn.relu)
    up = [Deconv2d(n), nn.relu, Deconv2d(n), nn.relu, Conv2d(self.latents, 3, 1), nn.relu]
    self.h_s = nn.Sequential(up)
    self.entropy_bottleneck = EntropyBottleneck(n)

  def side(self, y):
    return self.h_a(jnp.abs(y))

  def code(self, y, z, key=None, quality=None, rounded: Rounded = F.round_about) -> Coded:
    for_z, for_y = keys(key, 2)
    z_hat, of_z = self.side_information(z, for_z, rounded)
    y_hat = priced(y, rounded(y, 0.0), for_y)
    return self.coded(y_hat, F.gaussian_likelihood(y_hat, self.h_s(z_hat)), of_z, quality)


class MeanScaleHyperprior(PictureCodec):
  """Latents are normal, with scales and means from z. Attributes as of `PictureCodec`."""

  def setup(self):
    super().setup()
    self.g_a, self.g_s = gdn_analysis(self.filters, self.latents), gdn_synthesis(self.filters)
    self.h_a = hyper_analysis(self.filters, nn.leaky_relu)
    self.h_s = hyper_synthesis(self.latents)
    self.entropy_bottleneck = EntropyBottleneck(self.filters)

  def code(self, y, z, key=None, quality=None, rounded: Rounded = F.round_about) -> Coded:
    for_z, for_y = keys(key, 2)
    z_hat, of_z = self.side_information(z, for_z, rounded)
    scales, means = split(self.h_s(z_hat))
    y_hat = priced(y, rounded(y, means), for_y)
    return self.coded(y_hat, F.gaussian_likelihood(y_hat, scales, means), of_z, quality)
