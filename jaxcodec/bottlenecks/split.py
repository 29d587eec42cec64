"""Split residual vector quantizer: two quantizers side by side over one latent.

Source: Moshi, https://arxiv.org/abs/2410.00037, section 3.3.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec import functional as F
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

  @property
  def codebook_paths(self) -> tuple[tuple[str, ...], ...]:
    """Where moving averages write among the parameters, in the order of the statistics."""
    return (("semantic", "codebooks"), ("acoustic", "codebooks"))

  def setup(self):
    F.check_positive(dimension=self.dimension)
    if self.num_codebooks < 2:
      raise ValueError(f"num_codebooks must be at least 2, got {self.num_codebooks}")

    def dense(features: int):
      return nn.Dense(features, use_bias=False)

    self.semantic = ResidualVQ(1, self.codebook_size, self.features)
    self.acoustic = ResidualVQ(self.num_codebooks - 1, self.codebook_size, self.features)
    self.semantic_in, self.semantic_out = dense(self.features), dense(self.dimension)
    self.acoustic_in, self.acoustic_out = dense(self.features), dense(self.dimension)

  def encode(self, z, num_codebooks: int | None = None):
    """Codes of the first `num_codebooks`: [..., D] -> int32 [..., Q]."""
    rest = (self.num_codebooks if num_codebooks is None else num_codebooks) - 1
    z = F.check_latents(z, self.dimension)
    codes = self.semantic.encode(self.semantic_in(z))
    if rest == 0:
      return codes
    others = self.acoustic.encode(self.acoustic_in(z), rest)
    return jnp.concatenate([codes, others], axis=-1)

  def decode(self, codes):
    """Latents of codes of the first codebooks: [..., Q] -> [..., D]."""
    F.check_codes(codes, self.codebook_sizes)
    z = self.semantic_out(self.semantic.decode(codes[..., :1]))
    if codes.shape[-1] == 1:
      return z
    return z + self.acoustic_out(self.acoustic.decode(codes[..., 1:]))

  def inputs(self, z, codes):
    """What each stage was given in its projection, [Q, N, features], for codes [..., Q]."""
    z = F.check_latents(z, self.dimension)
    first = self.semantic.inputs(self.semantic_in(z), codes[..., :1])
    return jnp.concatenate([first, self.acoustic.inputs(self.acoustic_in(z), codes[..., 1:])])

  def __call__(self, z, mask=None, *, num_active=None) -> Quantized:
    """Quantizes for training; see `ResidualVQ`. Losses are means over all codebooks in use.

    Args:
      z: `[..., D]`.
      mask: bool `[...]`, the rows that exist; None for all.
      num_active: at least 1, how many codebooks to use, as of `ResidualVQ`; None for all.
    """
    z, valid = F.clean_latents(z, self.dimension, mask)
    less = None if num_active is None else num_active - 1
    first = self.semantic(self.semantic_in(z), valid)
    rest = self.acoustic(self.acoustic_in(z), valid, num_active=less)
    codes = jnp.concatenate([first.codes, rest.codes], axis=-1)
    assert first.codebook_loss is not None
    assert rest.codebook_loss is not None
    # How many codebooks of the second part a row uses, and the weight of its mean.
    used = jnp.sum(rest.codes >= 0) / jnp.maximum(valid.sum(), 1)
    loss, codebook_loss = (
      (one + used * many) / (1 + used)
      for one, many in ((first.loss, rest.loss), (first.codebook_loss, rest.codebook_loss))
    )
    assert first.statistics is not None
    assert rest.statistics is not None
    statistics = CodeStatistics(
      *(jnp.concatenate(pair) for pair in zip(first.statistics, rest.statistics, strict=True))
    )
    z_q = self.semantic_out(first.z) + self.acoustic_out(rest.z)
    metrics = F.code_health(statistics.counts)
    return Quantized(z_q, codes, loss, metrics, statistics, codebook_loss)
