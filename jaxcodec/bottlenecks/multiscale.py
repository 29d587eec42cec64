"""Multi-scale residual quantizer of pictures.

Source: VAR, https://arxiv.org/abs/2404.02905; models/quant.py of its code.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.bottlenecks.quantized import Quantized


class MultiScaleVQ(nn.Module):
  """Coarse maps of tokens first, then finer ones, all of one codebook.

  Each scale codes the remainder, shrunk; its entries are enlarged, passed through a 3x3
  convolution and subtracted. `sum(p^2) * log2(codebook_size)` bits a picture; codes cut off after
  any scale decode to a coarser picture. Trained by gradients: add `codebook_loss` and 0.25 of
  `loss`.

  Attributes:
    codebook_size: entries K.
    features: size D of a latent.
    scales: sides of the maps, ascending; the last is the side of the latents.
    num_convolutions: convolutions, shared by neighbouring scales.
    ratio: the share of the convolution in what a scale adds.
  """

  codebook_size: int
  features: int
  scales: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
  num_convolutions: int = 4
  ratio: float = 0.5

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (self.codebook_size,)

  @property
  def num_tokens(self) -> int:
    return sum(scale**2 for scale in self.scales)

  def setup(self):
    F.check_positive(
      codebook_size=self.codebook_size,
      features=self.features,
      num_convolutions=self.num_convolutions,
    )
    if not self.scales or list(self.scales) != sorted(set(self.scales)) or self.scales[0] < 1:
      raise ValueError(f"scales must ascend from 1 or more, got {self.scales}")
    width = self.features
    kernels = (self.num_convolutions, 3, 3, width, width)
    small = nn.initializers.normal((9 * width) ** -0.5)
    self.parameters = F.MultiScaleParameters(
      self.param("codebook", nn.initializers.normal(1.0), (self.codebook_size, width)),
      self.param("kernels", small, kernels),
      self.param("biases", nn.initializers.zeros, (self.num_convolutions, width)),
    )

  def encode(self, z):
    """Codes: [B, S, S, D] -> int32 [B, L, 1], scale after scale, each row by row."""
    z, valid = self._picture(z)
    held = jax.lax.stop_gradient(self.parameters)
    # Not finite places are zeros here, so that each picture has codes.
    everywhere = jnp.ones_like(valid)
    return F.multiscale_quantize(z, held, self.scales, everywhere, self.ratio).codes[..., None]

  def decode(self, codes):
    """Latents: [B, L, 1] -> [B, S, S, D]; L may end after any scale."""
    F.check_codes(codes, self.codebook_sizes)
    if codes.ndim != 3:
      raise ValueError(f"codes must be [B, L, 1], got {codes.shape}")
    return F.multiscale_decode(codes[..., 0], self.parameters, self.scales, self.ratio)

  def __call__(self, z, mask=None) -> Quantized:
    """Quantizes z [B, S, S, D] for training.

    `mask` bool [B, S, S]: a place outside it is zero to every scale and not in the losses, which
    are means over scales of |sum so far - z|^2 / D over the places. A picture without a place has
    codes of -1.
    """
    z, valid = self._picture(z, mask)
    found = F.multiscale_quantize(z, self.parameters, self.scales, valid, self.ratio)
    some = valid.any(axis=(1, 2), keepdims=True)[..., None]
    z_q = F.straight_through(z, jax.lax.stop_gradient(jnp.where(some, found.z, 0)))
    codes = found.codes[..., None]
    metrics = F.code_health(F.code_counts(codes, self.codebook_size))
    return Quantized(z_q, codes, found.commitment, metrics, codebook_loss=found.codebook)

  def _picture(self, z, mask=None):
    side = self.scales[-1]
    if jnp.ndim(z) != 4 or jnp.shape(z)[1:3] != (side, side):
      raise ValueError(f"z must be [B, {side}, {side}, {self.features}], got {jnp.shape(z)}")
    return F.clean_latents(z, self.features, mask)
