"""The checkerboard context: latents on white squares first, those on black squares in view of them.

Two passes stand for the thousands of a raster scan. Anchors are the places whose row and column add
up to an even number.
Source: He et al., https://arxiv.org/abs/2103.15306; "cheng2020-anchor-checkerboard" of CompressAI.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.bottlenecks import EntropyBottleneck
from jaxcodec.image import transforms as T
from jaxcodec.image.picture_codec import Coded, PictureCodec, Rounded, keys, priced
from jaxcodec.layers.picture import Conv2d, split


class Checkerboard(PictureCodec):
  """Attributes as of `PictureCodec`, and:

  transform: "gdn", those of the joint model; "residual", those of Cheng et al., for which
    `latents` equals `filters`; or "patch", which take a fraction of the time and, with a smaller
    context, of the weights.
  """

  transform: Literal["gdn", "residual", "patch"] = "gdn"

  def setup(self):
    super().setup()
    n, m = self.filters, self.latents
    if self.transform == "residual":
      T.check_residual(n, m)
      self.g_a, self.g_s = T.residual_analysis(n), T.residual_synthesis(n)
      self.h_a, self.h_s = T.small_hyper_analysis(n), T.small_hyper_synthesis(n)
    elif self.transform == "patch":
      self.g_a, self.g_s = T.patch_analysis(n, m), T.patch_synthesis(n)
      self.h_a, self.h_s = T.slim_hyper_analysis(n), T.slim_hyper_synthesis(n, m)
    else:
      self.g_a, self.g_s = T.gdn_analysis(n, m), T.gdn_synthesis(n)
      self.h_a, self.h_s = T.hyper_analysis(n, nn.leaky_relu), T.hyper_synthesis(m)
    self.entropy_bottleneck = EntropyBottleneck(n)
    size = 3 if self.transform == "patch" else 5
    self.context_prediction = Conv2d(2 * m, size, 1, mask=F.checkerboard_mask)
    self.entropy_parameters = T.entropy_parameters(m)

  def code(self, y, z, key=None, quality=None, rounded: Rounded = F.round_about) -> Coded:
    for_z, for_y = keys(key, 2)
    z_hat, of_z = self.side_information(z, for_z, rounded, always=True)
    y_hat, parameters = two_passes(
      y, self.h_s(z_hat), self.context_prediction, self.entropy_parameters, rounded
    )
    scales, means = split(parameters)
    likelihood = F.gaussian_likelihood(priced(y, y_hat, for_y), scales, means)
    return self.coded(y_hat, likelihood, of_z, quality)


def two_passes(y, side, context_prediction, entropy_parameters, rounded: Rounded):
  """Rounded latents and the parameters of all, `(y_hat, parameters)`.

  `entropy_parameters` sees context and `side` of one place at a time. The gradient passes through
  the rounding.
  """
  anchor = F.checkerboard(*y.shape[1:3])
  nothing = jnp.zeros((*y.shape[:3], 2 * y.shape[-1]), y.dtype)
  first = entropy_parameters(jnp.concatenate([nothing, side], axis=-1))
  anchors = jnp.where(anchor, rounded(y, split(first)[1]), 0)
  context = context_prediction(anchors)
  second = entropy_parameters(jnp.concatenate([context, side], axis=-1))
  y_hat = jnp.where(anchor, anchors, rounded(y, split(second)[1]))
  return y_hat, jnp.where(anchor, first, second)
