"""Bottlenecks of signs: lookup-free, residual lookup-free and binary spherical quantization.

Source: LFQ, https://arxiv.org/abs/2310.05737; BSQ, https://arxiv.org/abs/2406.07548.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.bottlenecks.quantized import Quantized
from jaxcodec.bottlenecks.scalar import Projections

_MOST_BITS = 24


class LFQ(nn.Module):
  """Lookup-free quantizer: the signs of a few numbers; `num_bits` bits a latent.

  Add `entropy_loss` (0.1 in the source), else codes die, and `loss` (0.25).

  Attributes:
    num_bits: 1 to 24; the highest bit is the first number's.
    features: size of a latent; trained projections stand around where it is not `num_bits`.
    diversity: weight of the batch's entropy in `entropy_loss`.
    inverse_temperature: how certain a code is of its latent; 100 in the source.
  """

  num_bits: int
  features: int
  diversity: float = 1.0
  inverse_temperature: float = 100.0

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (1 << self.num_bits,)

  def setup(self):
    _check_bits(self.num_bits)
    self.ends = Projections(self.features, self.num_bits)

  def encode(self, z):
    """Codes: [..., D] -> int32 [..., 1]."""
    return F.sign_encode(self.ends(F.check_latents(z, self.features)))[..., None]

  def decode(self, codes):
    """Latents: [..., 1] -> [..., D]."""
    F.check_codes(codes, self.codebook_sizes)
    corners = F.sign_decode(codes[..., 0], self.num_bits)
    return self.ends.out(corners, codes[..., 0] >= 0)

  def __call__(self, z, mask=None) -> Quantized:
    """Quantizes z [..., D] for training; `mask` bool [...], the rows that exist.

    `loss` is the mean over rows and bits of (number - sign)^2; `entropy_loss` the mean entropy of a
    latent's codes less `diversity` times the entropy of all of them, in nats.
    """
    z, valid = F.clean_latents(z, self.features, mask)
    narrow = self.ends(z)
    codes = jnp.where(valid, F.sign_encode(narrow), -1)
    corners = F.sign_decode(codes, self.num_bits)
    loss = F.masked_mean(((narrow - corners) ** 2).mean(axis=-1), valid)
    of_row, of_batch = F.sign_entropies(narrow, valid, 1.0, self.inverse_temperature)
    z_q = self.ends.out(F.straight_through(narrow, corners), valid)
    metrics = F.code_health(F.code_counts(codes[..., None], 1 << self.num_bits))
    entropy = of_row - self.diversity * of_batch
    return Quantized(z_q, codes[..., None], loss, metrics, entropy_loss=entropy)


class ResidualLFQ(nn.Module):
  """Residual lookup-free quantizer: stage q has the signs of what is left, at size 2^-q.

  Attributes:
    num_codebooks: stages Q.
    num_bits: bits of each stage.
    features, diversity, inverse_temperature: as of `LFQ`.
  """

  num_codebooks: int
  num_bits: int
  features: int
  diversity: float = 1.0
  inverse_temperature: float = 100.0

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (1 << self.num_bits,) * self.num_codebooks

  def setup(self):
    _check_bits(self.num_bits)
    F.check_positive(num_codebooks=self.num_codebooks)
    self.ends = Projections(self.features, self.num_bits)

  def encode(self, z, num_codebooks: int | None = None):
    """Codes of the first `num_codebooks` stages: [..., D] -> int32 [..., Q]."""
    narrow = self.ends(F.check_latents(z, self.features))
    return F.residual_sign_encode(narrow, num_codebooks or self.num_codebooks)

  def decode(self, codes):
    """Latents of codes of the first stages: [..., Q] -> [..., D]."""
    F.check_codes(codes, self.codebook_sizes)
    total = F.residual_sign_decode(codes, self.num_bits)
    return self.ends.out(total, (codes >= 0).any(axis=-1))

  def __call__(self, z, mask=None, *, num_active=None) -> Quantized:
    """Quantizes z [..., D] for training; arguments as of `ResidualVQ`, losses as of `LFQ`.

    Losses are means over the stages in use. A stage is pulled through what is left, in which the
    corners before it are held still; the output's gradient passes once.
    """
    z, valid = F.clean_latents(z, self.features, mask)
    narrow = self.ends(z)
    active = F.active_stages(valid, self.num_codebooks, num_active)
    codes = jnp.where(active, F.residual_sign_encode(narrow, self.num_codebooks), -1)
    left, losses, entropies = narrow, jnp.zeros(()), jnp.zeros(())
    for stage in range(self.num_codebooks):
      scale, used = 0.5**stage, active[..., stage]
      corners = F.sign_decode(codes[..., stage], self.num_bits, scale)
      of_row, of_batch = F.sign_entropies(left, used, scale, self.inverse_temperature)
      left = left - corners
      losses += jnp.where(used, (left**2).mean(axis=-1), 0).sum()
      entropies += (of_row - self.diversity * of_batch) * used.sum()
    number = jnp.maximum(active.sum(), 1)
    corners = jax.lax.stop_gradient(F.residual_sign_decode(codes, self.num_bits))
    z_q = self.ends.out(F.straight_through(narrow, corners), active.any(axis=-1))
    metrics = F.code_health(F.code_counts(codes, 1 << self.num_bits))
    return Quantized(z_q, codes, losses / number, metrics, entropy_loss=entropies / number)


class BSQ(nn.Module):
  """Binary spherical quantizer: the nearest corner of the cube within the unit sphere.

  Add `entropy_loss` (0.1). The output's gradient reaches the point on the sphere as it is; released
  code scales it by num_bits^-1/2.

  Attributes:
    num_bits: 1 to 24; the highest bit is the first number's.
    features: size of a latent; trained projections stand around where it is not `num_bits`.
    diversity: as of `LFQ`.
    inverse_temperature: as of `LFQ`; 1 in the source.
  """

  num_bits: int
  features: int
  diversity: float = 1.0
  inverse_temperature: float = 1.0

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (1 << self.num_bits,)

  def setup(self):
    _check_bits(self.num_bits)
    self.ends = Projections(self.features, self.num_bits)

  def encode(self, z):
    """Codes: [..., D] -> int32 [..., 1]."""
    return F.sign_encode(self.ends(F.check_latents(z, self.features)))[..., None]

  def decode(self, codes):
    """Latents: [..., 1] -> [..., D]; of length 1 before the projection."""
    F.check_codes(codes, self.codebook_sizes)
    corners = F.sign_decode(codes[..., 0], self.num_bits, self.num_bits**-0.5)
    return self.ends.out(corners, codes[..., 0] >= 0)

  def __call__(self, z, mask=None) -> Quantized:
    """Quantizes z [..., D] for training; arguments and `entropy_loss` as of `LFQ`.

    `loss` is the mean over rows and bits of (point on the sphere - corner)^2; not in use in the
    source.
    """
    z, valid = F.clean_latents(z, self.features, mask)
    narrow = self.ends(z)
    point, scale = F.unit(narrow), self.num_bits**-0.5
    codes = jnp.where(valid, F.sign_encode(narrow), -1)
    corners = F.sign_decode(codes, self.num_bits, scale)
    loss = F.masked_mean(((point - corners) ** 2).mean(axis=-1), valid)
    of_row, of_batch = F.sign_entropies(point, valid, scale, self.inverse_temperature)
    z_q = self.ends.out(F.straight_through(point, corners), valid)
    metrics = F.code_health(F.code_counts(codes[..., None], 1 << self.num_bits))
    entropy = of_row - self.diversity * of_batch
    return Quantized(z_q, codes[..., None], loss, metrics, entropy_loss=entropy)


def _check_bits(bits: int) -> None:
  if not 1 <= bits <= _MOST_BITS:
    raise ValueError(f"num_bits must be 1 to {_MOST_BITS}, got {bits}")
