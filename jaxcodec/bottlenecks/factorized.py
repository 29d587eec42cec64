"""Residual quantizer with factorised, normalised codebooks trained by gradient.

Source: DAC, https://arxiv.org/abs/2306.06546, section 3.2; dac/nn/quantize.py of its code.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.bottlenecks.quantized import Quantized


class FactorizedRVQ(nn.Module):
  """Residual quantizer; the rate is `num_codebooks * log2(codebook_size)` bits per latent.

  A stage looks its residual up among few dimensions by angle alone, so that nearly all entries
  are used, and adds the entry itself, its length included.

  Attributes:
    num_codebooks: stages Q.
    codebook_size: entries K per stage.
    features: size D of a latent.
    codebook_features: dimensions d of the look-up.
  """

  num_codebooks: int
  codebook_size: int
  features: int
  codebook_features: int = 8

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (self.codebook_size,) * self.num_codebooks

  def setup(self):
    F.check_positive(
      num_codebooks=self.num_codebooks,
      codebook_size=self.codebook_size,
      features=self.features,
      codebook_features=self.codebook_features,
    )
    stages, wide, narrow = self.num_codebooks, self.features, self.codebook_features
    # PyTorch's default, as in effect the authors have it; see `layers.dac`.
    projection = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=0)
    zeros = nn.initializers.zeros
    entries = nn.initializers.normal(1.0)
    self.books = F.FactorizedCodebooks(
      self.param("in_kernel", projection, (stages, wide, narrow)),
      self.param("in_bias", zeros, (stages, narrow)),
      self.param("codebooks", entries, (stages, self.codebook_size, narrow)),
      self.param("out_kernel", projection, (stages, narrow, wide)),
      self.param("out_bias", zeros, (stages, wide)),
    )

  def encode(self, z, num_codebooks: int | None = None):
    """Codes of the first `num_codebooks` stages: [..., D] -> int32 [..., Q]."""
    z = F.check_latents(z, self.features)
    first = F.FactorizedCodebooks(*(leaf[:num_codebooks] for leaf in self.books))
    return F.factorized_encode(z, first)

  def decode(self, codes):
    """Latents of codes of the first stages: [..., Q] -> [..., D]."""
    F.check_codes(codes, self.codebook_sizes)
    return F.factorized_decode(codes, self.books)

  def __call__(self, z, mask=None, *, num_active=None) -> Quantized:
    """Quantizes for training.

    Args:
      z: `[..., D]`.
      mask: bool `[...]`, the rows that exist; None for all.
      num_active: how many stages to use, as of `ResidualVQ`; None for all.

    Both losses are a sum over stages of means over the rows that count, a stage that a row leaves
    out counting as zero. DAC adds 0.25 of `loss` and all of `codebook_loss`.
    """
    z, valid = F.clean_latents(z, self.features, mask)
    active = F.active_stages(valid, self.num_codebooks, num_active)
    codes = jnp.where(active, F.factorized_encode(z, self.books), -1)
    z_q, losses = F.factorized_straight_through(z, codes, self.books, valid)
    metrics = F.code_health(F.code_counts(codes, self.codebook_size))
    return Quantized(z_q, codes, losses.commitment, metrics, codebook_loss=losses.codebook)
