"""Residual vector quantizer with codebooks trained by moving averages.

Source: SoundStream, https://arxiv.org/abs/2107.03312, section III-C; EnCodec, section 3.2.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.bottlenecks.quantized import Quantized


class ResidualVQ(nn.Module):
  """Residual vector quantizer; the rate is `num_codebooks * log2(codebook_size)` bits per latent.

  Attributes:
    num_codebooks: stages Q.
    codebook_size: entries K per stage.
    features: size D of a latent.
  """

  num_codebooks: int
  codebook_size: int
  features: int

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (self.codebook_size,) * self.num_codebooks

  def setup(self):
    shape = (self.num_codebooks, self.codebook_size, self.features)
    self.codebooks = self.param("codebooks", nn.initializers.normal(1.0), shape)

  def encode(self, z, num_codebooks: int | None = None):
    """Codes of the first `num_codebooks` stages: [..., D] -> int32 [..., Q]."""
    return F.residual_encode(z, self.codebooks[:num_codebooks])

  def decode(self, codes):
    """Latents of codes of the first stages: [..., Q] -> [..., D]."""
    return F.residual_decode(codes, self.codebooks)

  def __call__(self, z, num_active=None) -> Quantized:
    """Quantizes for training.

    Args:
      z: `[B, T, D]`.
      num_active: int `[B]`, how many stages each row uses (quantizer dropout); None for all.

    The commitment loss is the mean over active stages of |residual - entry|^2 / D, the entry held
    still. The encoder is pulled by every stage: residuals subtract entries that carry no gradient.
    """
    z = z.astype(jnp.float32)
    codebooks = jax.lax.stop_gradient(self.codebooks)
    codes = F.residual_encode(z, codebooks)
    if num_active is not None:
      used = jnp.arange(self.num_codebooks) < num_active[:, None, None]
      codes = jnp.where(used, codes, -1)
    active = jnp.moveaxis(codes >= 0, -1, 0)[..., None]

    def stage(residual, inputs):
      codebook, codes = inputs
      known = (codes >= 0)[..., None]
      residual = residual - jnp.where(known, codebook[jnp.maximum(codes, 0)], 0)
      return residual, jnp.mean(jnp.where(known, residual, 0) ** 2)

    _, errors = jax.lax.scan(stage, z, (codebooks, jnp.moveaxis(codes, -1, 0)))
    loss = errors.sum() / jnp.maximum(active.mean(axis=(1, 2, 3)).sum(), 1e-8)
    rows = (-1, self.features), (-1, self.num_codebooks)
    statistics = F.residual_statistics(
      jax.lax.stop_gradient(z).reshape(rows[0]), codes.reshape(rows[1]), codebooks
    )
    used_share = jnp.mean(statistics.counts > 0)
    z_q = F.straight_through(z, F.residual_decode(codes, codebooks))
    metrics = {"codebook_use": used_share}
    return Quantized(z_q, codes, loss, metrics, statistics)
