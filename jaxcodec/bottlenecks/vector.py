"""One codebook: nearest by distance, or by angle.

Source: van den Oord et al., https://arxiv.org/abs/1711.00937; by angle, Yu et al.,
https://arxiv.org/abs/2110.04627, section 3.2.
"""

from collections.abc import Callable

import flax.linen as nn
import jax

from jaxcodec import functional as F
from jaxcodec.bottlenecks.quantized import Quantized
from pallas_kernels import nearest_code


class VQ(nn.Module):
  """Vector quantizer of log2(codebook_size) bits a latent.

  Trained by gradients (add `codebook_loss`) or by moving averages (write the codebooks from
  `statistics`). Start it with `functional.kmeans`; untrained entries far from the latents are
  never used.

  Attributes:
    codebook_size: entries K.
    features: size D of a latent.
    through: how the output's gradient reaches z: `functional.straight_through` or, for the rotation
      trick, `functional.rotate`.
  """

  codebook_size: int
  features: int
  through: Callable = F.straight_through

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (self.codebook_size,)

  @property
  def codebook_paths(self) -> tuple[tuple[str, ...], ...]:
    """Where moving averages write among the parameters."""
    return (("codebooks",),)

  def setup(self):
    F.check_positive(codebook_size=self.codebook_size, features=self.features)
    shape = (1, self.codebook_size, self.features)
    self.codebooks = self.param("codebooks", nn.initializers.normal(1.0), shape)

  def encode(self, z):
    """Codes: [..., D] -> int32 [..., 1]; a latent with a NaN gets 0."""
    z = F.check_latents(z, self.features)
    return nearest_code(z, self.codebooks[0])[..., None]

  def decode(self, codes):
    """Latents: [..., 1] -> [..., D]."""
    F.check_codes(codes, self.codebook_sizes)
    return F.lookup(codes[..., 0], self.codebooks[0])

  def inputs(self, z, codes):
    """The latents as [1, N, D]; `functional.restart_dead_codes` draws there."""
    del codes  # As every `inputs`; here they say nothing more.
    return F.check_latents(z, self.features).reshape(1, -1, self.features)

  def __call__(self, z, mask=None) -> Quantized:
    """Quantizes z [..., D] for training; `mask` bool [...], the rows that exist.

    Both losses are means over rows and D of the squared distance; the usual weights are 0.25 for
    `loss` and 1 for `codebook_loss`.
    """
    z, valid = F.clean_latents(z, self.features, mask)
    found = F.vector_quantize(z, self.codebooks[0], valid)
    return one_codebook(z, found, self.through)


class CosineVQ(nn.Module):
  """Vector quantizer by angle: latents and entries count by direction, the output has length 1.

  The moving averages are of directions; the entry is the direction of what `ema_update` writes.

  Attributes:
    codebook_size, features, through: as of `VQ`.
  """

  codebook_size: int
  features: int
  through: Callable = F.straight_through

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (self.codebook_size,)

  def setup(self):
    F.check_positive(codebook_size=self.codebook_size, features=self.features)
    shape = (1, self.codebook_size, self.features)
    self.codebooks = self.param("codebooks", nn.initializers.normal(1.0), shape)

  def encode(self, z):
    """Codes: [..., D] -> int32 [..., 1]; a latent with a NaN gets 0."""
    z = F.check_latents(z, self.features)
    return nearest_code(F.unit(z), F.unit(self.codebooks[0]))[..., None]

  def decode(self, codes):
    """Latents of length 1: [..., 1] -> [..., D]."""
    F.check_codes(codes, self.codebook_sizes)
    return F.lookup(codes[..., 0], F.unit(self.codebooks[0]))

  def inputs(self, z, codes):
    """The directions of the latents as [1, N, D]; see `VQ.inputs`."""
    del codes
    return F.unit(F.check_latents(z, self.features)).reshape(1, -1, self.features)

  def __call__(self, z, mask=None) -> Quantized:
    """Quantizes z [..., D] for training; losses as of `VQ`, between directions."""
    z, valid = F.clean_latents(z, self.features, mask)
    direction = F.unit(z)
    found = F.vector_quantize(direction, F.unit(self.codebooks[0]), valid)
    return one_codebook(direction, found, self.through)


def one_codebook(z, found: F.VectorQuantized, through: Callable) -> Quantized:
  """The output of a bottleneck with a single codebook."""
  z_q = through(z, jax.lax.stop_gradient(found.z))
  counts, sums = found.statistics
  return Quantized(
    z_q,
    found.codes[..., None],
    found.commitment,
    F.code_health(counts[None]),
    F.CodeStatistics(counts[None], sums[None]),
    found.codebook,
  )
