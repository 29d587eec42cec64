"""One codebook that is a trained map of frozen vectors: SimVQ, and codebook transfer."""

from collections.abc import Callable

import flax.linen as nn
import jax

from jaxcodec import functional as F
from jaxcodec.bottlenecks.quantized import Quantized
from jaxcodec.bottlenecks.vector import one_codebook
from pallas_kernels import nearest_code


class SimVQ(nn.Module):
  """Vector quantizer whose entries are a trained linear map of frozen random vectors.

  A gradient to one entry moves the map and so all of them: none is left behind. Add
  `codebook_loss`. Keep `frozen` out of weight decay; its gradient is zero.
  Source: SimVQ, https://arxiv.org/abs/2411.02038.

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
    shape = (self.codebook_size, self.features)
    self.frozen = self.param("frozen", nn.initializers.normal(self.features**-0.5), shape)
    self.map = nn.Dense(self.features, use_bias=False, precision="highest")

  def entries(self):
    """The codebook [K, D] of now."""
    return self.map(jax.lax.stop_gradient(self.frozen))

  def encode(self, z):
    """Codes: [..., D] -> int32 [..., 1]; a latent with a NaN gets 0."""
    z = F.check_latents(z, self.features)
    return nearest_code(z, self.entries())[..., None]

  def decode(self, codes):
    """Latents: [..., 1] -> [..., D]."""
    F.check_codes(codes, self.codebook_sizes)
    return F.lookup(codes[..., 0], self.entries())

  def __call__(self, z, mask=None) -> Quantized:
    """Quantizes z [..., D] for training; losses as of `VQ`, weights 0.25 and 1."""
    z, valid = F.clean_latents(z, self.features, mask)
    out = one_codebook(z, F.vector_quantize(z, self.entries(), valid), self.through)
    return out._replace(statistics=None)


class TransferVQ(nn.Module):
  """Vector quantizer whose entries are a trained projection of frozen vectors from elsewhere.

  `frozen` is to be written: centres of a pretrained network's features, say 100,000 of them. Only
  the projection learns, as in `SimVQ`. Start a linear one by `functional.matched_projection` of the
  first latents. Source: VQGAN-LC, https://arxiv.org/abs/2406.11837.

  Attributes:
    codebook_size: entries K.
    source_features: size of a frozen vector.
    features: size D of a latent; 8 in the source.
    hidden: width of a hidden layer of the projection; 0 for a linear one.
    through: as of `VQ`.
  """

  codebook_size: int
  source_features: int
  features: int = 8
  hidden: int = 0
  through: Callable = F.straight_through

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (self.codebook_size,)

  def setup(self):
    F.check_positive(
      codebook_size=self.codebook_size,
      source_features=self.source_features,
      features=self.features,
    )
    shape = (self.codebook_size, self.source_features)
    self.frozen = self.param("frozen", nn.initializers.normal(1.0), shape)
    if self.hidden:
      self.inner = nn.Dense(self.hidden, precision="highest")
    wide = nn.initializers.normal(self.features**-0.5)
    self.projection = nn.Dense(self.features, kernel_init=wide, precision="highest")

  def entries(self):
    """The codebook [K, D] of now; after training it can be stored in place of `frozen`."""
    source = jax.lax.stop_gradient(self.frozen)
    if self.hidden:
      source = nn.relu(self.inner(source))
    return self.projection(source)

  def encode(self, z):
    """Codes: [..., D] -> int32 [..., 1]; a latent with a NaN gets 0."""
    z = F.check_latents(z, self.features)
    return nearest_code(z, self.entries())[..., None]

  def decode(self, codes):
    """Latents: [..., 1] -> [..., D]."""
    F.check_codes(codes, self.codebook_sizes)
    return F.lookup(codes[..., 0], self.entries())

  def __call__(self, z, mask=None) -> Quantized:
    """Quantizes z [..., D] for training; losses as of `VQ`, weights 1 and 0.33."""
    z, valid = F.clean_latents(z, self.features, mask)
    out = one_codebook(z, F.vector_quantize(z, self.entries(), valid), self.through)
    return out._replace(statistics=None)
