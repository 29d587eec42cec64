"""The joint model: a latent's parameters come from side information and the latents before it.

Those stand above and at the left, in reading order, so decoding goes from place to place.
Source: Minnen et al., https://arxiv.org/abs/1809.02736; "mbt2018" of CompressAI. With transforms of
residual blocks it is "cheng2020-anchor", with attention in them "cheng2020-attn".
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.bottlenecks import EntropyBottleneck
from jaxcodec.image import transforms as T
from jaxcodec.image.picture_codec import Coded, PictureCodec, Rounded, keys, priced
from jaxcodec.layers.picture import Conv2d, split


class JointAutoregressive(PictureCodec):
  """Attributes as of `PictureCodec`, and:

  transform: "gdn", those of the joint model, or "residual" and "attention", those of Cheng et al.,
    for which `latents` equals `filters`.
  """

  transform: Literal["gdn", "residual", "attention"] = "gdn"

  def setup(self):
    super().setup()
    n, m = self.filters, self.latents
    if self.transform == "gdn":
      self.g_a, self.g_s = T.gdn_analysis(n, m), T.gdn_synthesis(n)
      self.h_a, self.h_s = T.hyper_analysis(n, nn.leaky_relu), T.hyper_synthesis(m)
    else:
      attention = self.transform == "attention"
      T.check_residual(n, m)
      self.g_a = T.residual_analysis(n, attention)
      self.g_s = T.residual_synthesis(n, attention=attention)
      self.h_a, self.h_s = T.small_hyper_analysis(n), T.small_hyper_synthesis(n)
    self.entropy_bottleneck = EntropyBottleneck(n)
    self.context_prediction = Conv2d(2 * m, 5, 1, mask=F.raster_mask)
    self.entropy_parameters = T.entropy_parameters(m)

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
