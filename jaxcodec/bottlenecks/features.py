"""Codebook features: an activation becomes the mean of a few codes, which can be read and forced.

Source: Tamkin et al., https://arxiv.org/abs/2310.17230.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.bottlenecks.quantized import Quantized


class CodebookFeatures(nn.Module):
  """The `num_active` codes of the nearest direction, averaged as they are, lengths included.

  The latent passes a layer norm first, and nothing of it passes by: a behaviour of the network
  must go through codes. The task's gradient reaches both the latent, as if nothing stood here,
  and the codes; add `codebook_loss` so that codes come to where latents are.

  Attributes:
    codebook_size: entries K.
    features: size D of a latent.
    num_active: codes k of a latent.
  """

  codebook_size: int
  features: int
  num_active: int = 1

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (self.codebook_size,) * self.num_active

  def setup(self):
    F.check_positive(codebook_size=self.codebook_size, features=self.features)
    if not 1 <= self.num_active <= self.codebook_size:
      raise ValueError(f"num_active {self.num_active} must be 1 to {self.codebook_size}")
    self.norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)
    shape = (self.codebook_size, self.features)
    self.codebook = self.param("codebook", nn.initializers.normal(1.0), shape)

  def encode(self, z, *, disabled=None, forced=None):
    """Codes, the nearest first: [..., D] -> int32 [..., k].

    Args:
      z: `[..., D]`.
      disabled: bool `[K]`, codes that are switched off; the next best ones come instead.
      forced: int32 `[..., k]`, codes to put in a place; -1 leaves the place as it is.
    """
    z = self.norm(F.check_latents(z, self.features))
    return self._switched(F.top_codes(z, self.codebook, self.num_active, disabled), forced)

  def decode(self, codes):
    """Means of entries: [..., k] -> [..., D]; a code of -1 stands for a zero vector."""
    F.check_codes(codes, self.codebook_sizes, self.num_active)
    return F.mean_entries(codes, self.codebook)

  def __call__(self, z, mask=None, *, disabled=None, forced=None) -> Quantized:
    """Quantizes z [..., D]; `disabled` and `forced` as of `encode`, `mask` bool [...].

    Losses are means over rows and D of (latent after the norm - output)^2.
    """
    z, valid = F.clean_latents(z, self.features, mask)
    z = self.norm(z)
    codes = self._switched(F.top_codes(z, self.codebook, self.num_active, disabled), forced)
    codes = jnp.where(valid[..., None], codes, -1)
    mean = F.mean_entries(codes, self.codebook)
    held, seen = jax.lax.stop_gradient((mean, z))
    inside = jnp.broadcast_to(valid[..., None], z.shape)
    # The places of a latent share one table.
    counts = F.code_counts(codes.reshape(-1, 1), self.codebook_size)
    return Quantized(
      F.through_and_entries(z, mean),
      codes,
      F.masked_mean((z - held) ** 2, inside),
      F.code_health(counts),
      codebook_loss=F.masked_mean((mean - seen) ** 2, inside),
    )

  def _switched(self, codes, forced):
    if forced is None:
      return codes
    if jnp.shape(forced) != codes.shape:
      raise ValueError(f"forced must have the codes' shape {codes.shape}, got {jnp.shape(forced)}")
    F.check_codes(forced, self.codebook_sizes, self.num_active)
    return jnp.where(forced >= 0, forced, codes)
