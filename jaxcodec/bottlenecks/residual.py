"""Residual vector quantizers: plain, by groups of channels, and with masked channels.

Source: SoundStream, https://arxiv.org/abs/2107.03312, section III-C; EnCodec, section 3.2. Groups:
HiFi-Codec, https://arxiv.org/abs/2305.02765. Masked channels: Language-Codec,
https://arxiv.org/abs/2402.12208.
"""

import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec import functional as F
from jaxcodec.bottlenecks.quantized import Quantized


class ResidualVQ(nn.Module):
  """Residual vector quantizer; the rate is `num_codebooks * log2(codebook_size)` bits per latent.

  Trained by moving averages (write the codebooks from `statistics`) or by gradients (add
  `codebook_loss`); start it with `functional.residual_kmeans`.

  Attributes:
    num_codebooks: stages Q.
    codebook_size: entries K per stage.
    features: size D of a latent.
    shared: all stages have the same entries; the statistics are the sums over stages.
    num_bands: so many first stages see and code one band of the channels each, all of them the
      latent itself; the stages after code what is left of all channels. 0 for none.
    through: how the output's gradient reaches z, once and not once a stage:
      `functional.straight_through` or `functional.rotate`.
  """

  num_codebooks: int
  codebook_size: int
  features: int
  shared: bool = False
  num_bands: int = 0
  through: Callable = F.straight_through

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (self.codebook_size,) * self.num_codebooks

  @property
  def codebook_paths(self) -> tuple[tuple[str, ...], ...]:
    """Where moving averages write among the parameters, in the order of the statistics."""
    return (("codebooks",),)

  def setup(self):
    F.check_positive(
      num_codebooks=self.num_codebooks, codebook_size=self.codebook_size, features=self.features
    )
    if not 0 <= self.num_bands <= min(self.num_codebooks, self.features):
      raise ValueError(
        f"{self.num_bands} bands for {self.num_codebooks} codebooks of {self.features} features"
      )
    stages = 1 if self.shared else self.num_codebooks
    shape = (stages, self.codebook_size, self.features)
    self.codebooks = self.param("codebooks", nn.initializers.normal(1.0), shape)

  @property
  def bands(self) -> np.ndarray | None:
    """The channels that each stage codes, float32 [Q, D] of zeros and ones; None for all.

    D channels fall into n bands at i D // n, so that 128 give 42, 43 and 43.
    """
    if not self.num_bands:
      return None
    edges = [i * self.features // self.num_bands for i in range(self.num_bands + 1)]
    bands = np.ones((self.num_codebooks, self.features), np.float32)
    for stage, (start, end) in enumerate(itertools.pairwise(edges)):
      bands[stage] = 0
      bands[stage, start:end] = 1
    return bands

  def stages(self):
    """The entries as the stages use them, [Q, K, D]."""
    shape = (self.num_codebooks, self.codebook_size, self.features)
    codebooks = jnp.broadcast_to(self.codebooks, shape)
    bands = self.bands
    return codebooks if bands is None else codebooks * bands[:, None]

  def encode(self, z, num_codebooks: int | None = None):
    """Codes of the first `num_codebooks` stages: [..., D] -> int32 [..., Q]."""
    z = F.check_latents(z, self.features)
    bands = None if self.bands is None else self.bands[:num_codebooks]
    return F.residual_encode(z, self.stages()[:num_codebooks], bands)

  def decode(self, codes):
    """Latents of codes of the first stages: [..., Q] -> [..., D]; every band is needed."""
    F.check_codes(codes, self.codebook_sizes, max(self.num_bands, 1))
    return F.residual_decode(codes, self.stages())

  def inputs(self, z, codes):
    """What each stage was given, [Q, N, D], for codes [..., Q]; `restart_dead_codes` draws there.

    It is the whole remainder also where a stage sees a band of it alone: the rest is not used.
    """
    z = F.check_latents(z, self.features)
    inputs = F.residual_inputs(z, codes, self.stages())
    return inputs.reshape(self.num_codebooks, -1, self.features)

  def __call__(self, z, mask=None, *, num_active=None) -> Quantized:
    """Quantizes for training.

    Args:
      z: `[..., D]`.
      mask: bool `[...]`, the rows that exist; None for all.
      num_active: how many stages to use (quantizer dropout): integers `[B]`, one number, or any
        shape that `z` begins with; None for all. At least `num_bands` stages are used.

    The commitment loss is the mean over active stages of |residual - entry|^2 / D, the entry held
    still. The encoder is pulled by every stage: residuals subtract entries that carry no gradient.
    """
    z, valid = F.clean_latents(z, self.features, mask)
    if num_active is not None and self.num_bands:
      num_active = jnp.maximum(num_active, self.num_bands)
    active = F.active_stages(valid, self.num_codebooks, num_active)
    found = F.residual_quantize(z, self.stages(), active, self.bands)
    metrics = F.code_health(found.statistics.counts)
    statistics = found.statistics
    if self.shared:
      statistics = jax.tree.map(lambda x: x.sum(axis=0, keepdims=True), statistics)
    z_q = self.through(z, found.z)
    return Quantized(z_q, found.codes, found.commitment, metrics, statistics, found.codebook)


class GroupResidualVQ(nn.Module):
  """Groups of channels, each with a residual quantizer of its own.

  The rate is `num_groups * num_codebooks * log2(codebook_size)` bits per latent. With one codebook
  a group it is product quantization (Jégou et al., 2011).

  Attributes:
    num_groups: G, a divisor of `features`.
    num_codebooks: stages Q of each group.
    codebook_size: entries K of each.
    features: size D of a latent.
    through: as of `ResidualVQ`.
  """

  num_groups: int
  num_codebooks: int
  codebook_size: int
  features: int
  through: Callable = F.straight_through

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (self.codebook_size,) * (self.num_groups * self.num_codebooks)

  @property
  def codebook_paths(self) -> tuple[tuple[str, ...], ...]:
    """Where moving averages write among the parameters, [G, Q, K, D / G] as the statistics are."""
    return (("codebooks",),)

  def setup(self):
    F.check_positive(
      num_groups=self.num_groups,
      num_codebooks=self.num_codebooks,
      codebook_size=self.codebook_size,
      features=self.features,
    )
    if self.features % self.num_groups:
      raise ValueError(f"{self.features} features do not fall into {self.num_groups} groups")
    narrow = self.features // self.num_groups
    shape = (self.num_groups, self.num_codebooks, self.codebook_size, narrow)
    self.codebooks = self.param("codebooks", nn.initializers.normal(1.0), shape)

  def encode(self, z, num_codebooks: int | None = None):
    """Codes [..., Q G], stage by stage with the groups in order, of the first stages."""
    z = F.check_latents(z, self.features)
    parts = zip(jnp.split(z, self.num_groups, axis=-1), self.codebooks, strict=True)
    return _by_stage([F.residual_encode(part, books[:num_codebooks]) for part, books in parts])

  def decode(self, codes):
    """Latents of codes of the first stages: [..., Q G] -> [..., D]."""
    F.check_codes(codes, self.codebook_sizes)
    if codes.shape[-1] % self.num_groups:
      raise ValueError(f"codes {codes.shape} must hold {self.num_groups} groups a stage")
    parts = [
      F.residual_decode(codes[..., group :: self.num_groups], books)
      for group, books in enumerate(self.codebooks)
    ]
    return jnp.concatenate(parts, axis=-1)

  def inputs(self, z, codes):
    """What each stage was given, [G, Q, N, D / G]; see `ResidualVQ.inputs`."""
    z = F.check_latents(z, self.features)
    parts = [
      F.residual_inputs(part, codes[..., group :: self.num_groups], self.codebooks[group])
      for group, part in enumerate(jnp.split(z, self.num_groups, axis=-1))
    ]
    return jnp.stack(parts).reshape(*self.codebooks.shape[:2], -1, self.codebooks.shape[-1])

  def __call__(self, z, mask=None, *, num_active=None) -> Quantized:
    """Quantizes for training; arguments and losses as of `ResidualVQ`, `num_active` in stages."""
    z, valid = F.clean_latents(z, self.features, mask)
    active = F.active_stages(valid, self.num_codebooks, num_active)
    parts = zip(jnp.split(z, self.num_groups, axis=-1), self.codebooks, strict=True)
    found = [F.residual_quantize(part, books, active) for part, books in parts]
    statistics = jax.tree.map(lambda *x: jnp.stack(x), *(part.statistics for part in found))
    counts = jnp.moveaxis(statistics.counts, 0, 1).reshape(-1, self.codebook_size)
    z_q = jnp.concatenate([part.z for part in found], axis=-1)
    return Quantized(
      self.through(z, z_q),
      _by_stage([part.codes for part in found]),
      jnp.stack([part.commitment for part in found]).mean(),
      F.code_health(counts),
      statistics,
      jnp.stack([part.codebook for part in found]).mean(),
    )


def _by_stage(codes):
  """Codes [..., Q] of each group to [..., Q G], the groups of a stage side by side."""
  stacked = jnp.stack(codes, axis=-1)
  *rows, stages, groups = stacked.shape
  return stacked.reshape(*rows, stages * groups)
