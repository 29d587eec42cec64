"""Bottlenecks with an entropy model: numbers rounded to integers, and what these cost.

Source: Ballé et al., https://arxiv.org/abs/1802.01436; compressai/entropy_models of CompressAI.
"""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.bottlenecks.quantized import Quantized


class EntropyBottleneck(nn.Module):
  """Each number is rounded about its channel's median; a learned density per channel prices it.

  Add `bits` to the loss to trade rate for distortion, and `codebook_loss`, which alone moves the
  `quantiles`, the middle ones of which are the medians.

  Attributes:
    features: channels C of a latent, one codebook each.
    reach: integers from -reach to reach about the median are codes; others are clipped to them.
    filters: widths of the density's network.
    init_scale: width of the density at the start.
    tail_mass: probability outside the outer quantiles.
  """

  features: int
  reach: int = 127
  filters: tuple[int, ...] = (3, 3, 3, 3)
  init_scale: float = 10.0
  tail_mass: float = 1e-9

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (2 * self.reach + 1,) * self.features

  def setup(self):
    F.check_positive(features=self.features, reach=self.reach)
    widths = (1, *self.filters, 1)
    scale = self.init_scale ** (1 / (len(self.filters) + 1))
    matrices, biases, factors = [], [], []
    for i, (inner, outer) in enumerate(itertools.pairwise(widths)):
      flat = nn.initializers.constant(math.log(math.expm1(1 / scale / outer)))
      shape = (self.features, outer, inner)
      matrices.append(self.param(f"matrix_{i}", flat, shape))
      biases.append(self.param(f"bias_{i}", _about_zero, shape[:2]))
      if i < len(self.filters):
        factors.append(self.param(f"factor_{i}", nn.initializers.zeros, shape[:2]))
    self.model = F.Factorized(tuple(matrices), tuple(biases), tuple(factors))
    spread = jnp.asarray([-self.init_scale, 0, self.init_scale])
    start = jnp.broadcast_to(spread, (self.features, 3))
    self.quantiles = self.param("quantiles", lambda key: start)

  def medians(self):
    """[C], held still."""
    return jax.lax.stop_gradient(self.quantiles[:, 1])

  def likelihood(self, z):
    """Probability of the unit interval about z [..., C], elementwise."""
    return F.factorized_likelihood(z, self.model)

  def quantile_loss(self):
    """How far the `quantiles` are from where the density, held still, has them: 0 at best."""
    tails = math.log(2 / self.tail_mass - 1)
    held = jax.lax.stop_gradient(self.model)
    logits = F.factorized_logits(self.quantiles.T, held).T
    return jnp.abs(logits - jnp.asarray([-tails, 0, tails])).sum()

  def encode(self, z):
    """Codes: [..., C] -> int32 [..., C], from 0, the median at `reach`."""
    z = jnp.nan_to_num(F.check_latents(z, self.features), posinf=0.0, neginf=0.0)
    return integer_codes(z - self.medians(), self.reach)

  def decode(self, codes):
    """Latents: [..., C] -> [..., C]."""
    F.check_codes(codes, self.codebook_sizes, self.features)
    values = (codes - self.reach).astype(jnp.float32) + self.medians()
    return jnp.where(codes >= 0, values, 0)

  def __call__(self, z, mask=None, *, key=None) -> Quantized:
    """Quantizes z [..., C]; `mask` bool [...], the rows that exist.

    With a `key`, for training, noise uniform in [-1/2, 1/2] stands for the rounding in `z` and
    `bits` of the result; without, they are of the rounded numbers, and the gradient passes
    straight through. `loss` is 0.
    """
    z, valid = F.clean_latents(z, self.features, mask)
    inside = valid[..., None]
    codes = jnp.where(inside, integer_codes(z - self.medians(), self.reach), -1)
    rounded = F.straight_through(z, self.decode(codes))
    z_q = rounded if key is None else jnp.where(inside, F.uniform_noise(key, z), 0)
    cost = F.information_bits(self.likelihood(z_q))
    metrics = F.code_health(F.code_counts(codes, 2 * self.reach + 1))
    bits = jnp.where(inside, cost, 0).sum(axis=-1)
    aux = self.quantile_loss()
    return Quantized(z_q, codes, jnp.zeros(()), metrics, codebook_loss=aux, bits=bits)


class GaussianConditional(nn.Module):
  """Each number is rounded about a mean and priced by a normal density that came from elsewhere.

  Means and scales are a hyperprior's or an autoregressive network's. There is nothing to train.

  Attributes:
    features: numbers C of a latent.
    reach: as of `EntropyBottleneck`, about the mean.
    scale_bound: no scale counts as smaller.
  """

  features: int
  reach: int = 127
  scale_bound: float = 0.11

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (2 * self.reach + 1,) * self.features

  def setup(self):
    F.check_positive(features=self.features, reach=self.reach)

  def encode(self, z, means=0.0):
    """Codes: [..., C] -> int32 [..., C], from 0, the mean at `reach`."""
    z = jnp.nan_to_num(F.check_latents(z, self.features), posinf=0.0, neginf=0.0)
    return integer_codes(z - means, self.reach)

  def decode(self, codes, means=0.0):
    """Latents: [..., C] -> [..., C]."""
    F.check_codes(codes, self.codebook_sizes, self.features)
    return jnp.where(codes >= 0, (codes - self.reach).astype(jnp.float32) + means, 0)

  def __call__(self, z, mask=None, *, scales, means=0.0, key=None) -> Quantized:
    """Quantizes z [..., C]; `scales` and `means` of its shape or one that broadcasts to it.

    `mask`, `key`, `bits` and `loss` as of `EntropyBottleneck`.

    Raises:
      ValueError: also where scales or means do not broadcast to z.
    """
    z, valid = F.clean_latents(z, self.features, mask)
    for name, value in (("scales", scales), ("means", means)):
      if not _broadcasts(jnp.shape(value), z.shape):
        raise ValueError(f"{name} {jnp.shape(value)} must broadcast to z {z.shape}")
    inside = valid[..., None]
    codes = jnp.where(inside, integer_codes(z - means, self.reach), -1)
    rounded = F.straight_through(z, self.decode(codes, means))
    z_q = rounded if key is None else jnp.where(inside, F.uniform_noise(key, z), 0)
    likelihood = F.gaussian_likelihood(z_q, scales, means, self.scale_bound)
    bits = jnp.where(inside, F.information_bits(likelihood), 0).sum(axis=-1)
    metrics = F.code_health(F.code_counts(codes, 2 * self.reach + 1))
    return Quantized(z_q, codes, jnp.zeros(()), metrics, bits=bits)


def integer_codes(z, reach: int):
  """The nearest integers, the lower of two, within `reach` of zero, counted from -reach."""
  return (jnp.clip(jnp.ceil(z - 0.5), -reach, reach) + reach).astype(jnp.int32)


def _broadcasts(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
  pairs = zip(reversed(shape), reversed(whole), strict=False)
  return len(shape) <= len(whole) and all(n in (1, m) for n, m in pairs)


def _about_zero(key, shape):
  return jax.random.uniform(key, shape, minval=-0.5, maxval=0.5)
