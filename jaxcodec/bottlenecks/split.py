"""Split residual vector quantizer: two quantizers side by side over one latent.

Source: Moshi, https://arxiv.org/abs/2410.00037, section 3.3.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec.bottlenecks.quantized import Quantized
from jaxcodec.bottlenecks.residual import ResidualVQ
from jaxcodec.functional import CodeStatistics


class SplitRVQ(nn.Module):
  """The first codebook and the residual others both code the latent itself, each in a projection.

  So the first may be trained to carry content alone: what it leaves out, the others still see.

  Attributes:
    num_codebooks: of both parts together; the first one is the semantic one.
    codebook_size: entries of each.
    features: size of an entry.
    dimension: size of a latent.
  """

  num_codebooks: int
  codebook_size: int
  features: int
  dimension: int

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (self.codebook_size,) * self.num_codebooks

  def setup(self):
    def dense(features: int):
      return nn.Dense(features, use_bias=False)

    self.semantic = ResidualVQ(1, self.codebook_size, self.features)
    self.acoustic = ResidualVQ(self.num_codebooks - 1, self.codebook_size, self.features)
    self.semantic_in, self.semantic_out = dense(self.features), dense(self.dimension)
    self.acoustic_in, self.acoustic_out = dense(self.features), dense(self.dimension)

  def encode(self, z, num_codebooks: int | None = None):
    """Codes of the first `num_codebooks`: [..., D] -> int32 [..., Q]."""
    rest = (self.num_codebooks if num_codebooks is None else num_codebooks) - 1
    codes = self.semantic.encode(self.semantic_in(z.astype(jnp.float32)))
    if rest == 0:
      return codes
    others = self.acoustic.encode(self.acoustic_in(z.astype(jnp.float32)), rest)
    return jnp.concatenate([codes, others], axis=-1)

  def decode(self, codes):
    """Latents of codes of the first codebooks: [..., Q] -> [..., D]."""
    z = self.semantic_out(self.semantic.decode(codes[..., :1]))
    return z + self.acoustic_out(self.acoustic.decode(codes[..., 1:]))

  def __call__(self, z, num_active=None) -> Quantized:
    """Quantizes for training; see `ResidualVQ`. The loss is the mean over all codebooks in use.

    Args:
      z: `[B, T, D]`.
      num_active: int `[B]`, at least 1, how many codebooks each row uses; None for all.
    """
    z = z.astype(jnp.float32)
    first = self.semantic(self.semantic_in(z))
    rest = self.acoustic(self.acoustic_in(z), None if num_active is None else num_active - 1)
    codes = jnp.concatenate([first.codes, rest.codes], axis=-1)
    used = jnp.mean(rest.codes >= 0) * (self.num_codebooks - 1)
    loss = (first.loss + used * rest.loss) / (1 + used)
    assert first.statistics is not None
    assert rest.statistics is not None
    statistics = CodeStatistics(
      *(jnp.concatenate(pair) for pair in zip(first.statistics, rest.statistics, strict=True))
    )
    use = [part.metrics["codebook_use"] for part in (first, rest)]
    metrics = {"codebook_use": (use[0] + (self.num_codebooks - 1) * use[1]) / self.num_codebooks}
    z_q = self.semantic_out(first.z) + self.acoustic_out(rest.z)
    return Quantized(z_q, codes, loss, metrics, statistics)
