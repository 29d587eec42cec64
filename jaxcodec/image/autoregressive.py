"""The joint model: a latent's parameters come from side information and the latents before it.

Those stand above and at the left, in reading order, so decoding goes from place to place.
Source: Minnen et al., https://arxiv.org/abs/1809.02736; "mbt2018" of CompressAI.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.bottlenecks import EntropyBottleneck
from jaxcodec.image.picture_codec import Coded, PictureCodec, Rounded, keys, priced
from jaxcodec.image.transforms import (
  entropy_parameters,
  gdn_analysis,
  gdn_synthesis,
  hyper_analysis,
  hyper_synthesis,
)
from jaxcodec.layers.picture import Conv2d, split


class JointAutoregressive(PictureCodec):
  """Attributes as of `PictureCodec`."""

  def setup(self):
    super().setup()
    self.g_a, self.g_s = gdn_analysis(self.filters, self.latents), gdn_synthesis(self.filters)
    self.h_a = hyper_analysis(self.filters, nn.leaky_relu)
    self.h_s = hyper_synthesis(self.latents)
    self.entropy_bottleneck = EntropyBottleneck(self.filters)
    self.context_prediction = Conv2d(2 * self.latents, 5, 1, mask=F.raster_mask)
    self.entropy_parameters = entropy_parameters(self.latents)

  def code(self, y, z, key=None, quality=None, rounded: Rounded = F.round_about) -> Coded:
    """As an estimate, latents are rounded about zero for context and picture, as in CompressAI; in
    a file they are rounded about their means."""
    for_z, for_context, for_y = keys(key, 3)
    z_hat, of_z = self.side_information(z, for_z, rounded)
    # One noise for context and synthesis; the likelihood draws its own.
    y_hat = priced(y, rounded(y, 0.0), for_context)
    both = jnp.concatenate([self.h_s(z_hat), self.context_prediction(y_hat)], axis=-1)
    scales, means = split(self.entropy_parameters(both))
    likelihood = F.gaussian_likelihood(priced(y, rounded(y, means), for_y), scales, means)
    return self.coded(y_hat, likelihood, of_z, quality)
