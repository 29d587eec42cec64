"""Bottlenecks of numbers: finite scalar quantization, alone and residual, and latent quantization.

Source: FSQ, https://arxiv.org/abs/2309.15505; residual with even levels,
https://arxiv.org/abs/2411.19842; QLAE, https://arxiv.org/abs/2305.18378.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec import functional as F
from jaxcodec.bottlenecks.quantized import Quantized


class FSQ(nn.Module):
  """Finite scalar quantizer: a few numbers, each rounded to a few levels; sum(log2(L)) bits.

  Nothing to train but the projections, and no loss.

  Attributes:
    levels: L of each number; (8, 5, 5, 5) is about 10 bits, (8, 8, 8, 5, 5, 5) about 16.
    features: size of a latent; trained projections stand around where it is not `len(levels)`.
  """

  levels: tuple[int, ...]
  features: int

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (math.prod(self.levels),)

  def setup(self):
    F.check_levels(self.levels, least=3)
    self.ends = Projections(self.features, len(self.levels))

  def encode(self, z):
    """Codes: [..., D] -> int32 [..., 1]; a latent with a NaN has one of no meaning."""
    return F.fsq_encode(self.ends(_finite(z, self.features)), self.levels)[..., None]

  def decode(self, codes):
    """Latents: [..., 1] -> [..., D]."""
    F.check_codes(codes, self.codebook_sizes)
    values = F.fsq_decode(codes[..., 0], self.levels)
    return self.ends.out(values, codes[..., 0] >= 0)

  def __call__(self, z, mask=None) -> Quantized:
    """Quantizes z [..., D] for training; `mask` bool [...], the rows that exist."""
    z, valid = F.clean_latents(z, self.features, mask)
    narrow = self.ends(z)
    codes = jnp.where(valid, F.fsq_encode(narrow, self.levels), -1)
    smooth = F.fsq_bound(narrow, self.levels) / jnp.asarray([L // 2 for L in self.levels])
    values = F.straight_through(smooth, F.fsq_decode(codes, self.levels))
    metrics = F.code_health(F.code_counts(codes[..., None], self.codebook_sizes[0]))
    return Quantized(self.ends.out(values, valid), codes[..., None], jnp.zeros(()), metrics)


class ResidualFSQ(nn.Module):
  """Residual finite scalar quantizer: each stage has the same levels in finer steps.

  Attributes:
    num_codebooks: stages Q.
    levels: L of each number.
    features: as of `FSQ`.
  """

  num_codebooks: int
  levels: tuple[int, ...]
  features: int

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (math.prod(self.levels),) * self.num_codebooks

  def setup(self):
    F.check_levels(self.levels)
    F.check_positive(num_codebooks=self.num_codebooks)
    self.ends = Projections(self.features, len(self.levels))

  def encode(self, z, num_codebooks: int | None = None):
    """Codes of the first `num_codebooks` stages: [..., D] -> int32 [..., Q]."""
    narrow = F.soft_clamp(self.ends(_finite(z, self.features)), self.levels)
    return F.residual_fsq_encode(narrow, self.levels, num_codebooks or self.num_codebooks)

  def decode(self, codes):
    """Latents of codes of the first stages: [..., Q] -> [..., D]."""
    F.check_codes(codes, self.codebook_sizes)
    return self.ends.out(F.residual_fsq_decode(codes, self.levels), (codes >= 0).any(axis=-1))

  def __call__(self, z, mask=None, *, num_active=None) -> Quantized:
    """Quantizes z [..., D] for training; arguments as of `ResidualVQ`, no loss.

    The gradient passes the stages once, as one rounding: it does not grow with their number.
    """
    z, valid = F.clean_latents(z, self.features, mask)
    smooth = F.soft_clamp(self.ends(z), self.levels)
    held = jax.lax.stop_gradient(smooth)
    active = F.active_stages(valid, self.num_codebooks, num_active)
    codes = jnp.where(active, F.residual_fsq_encode(held, self.levels, self.num_codebooks), -1)
    values = F.straight_through(smooth, F.residual_fsq_decode(codes, self.levels))
    metrics = F.code_health(F.code_counts(codes, self.codebook_sizes[0]))
    return Quantized(self.ends.out(values, active.any(axis=-1)), codes, jnp.zeros(()), metrics)


class LatentQuantizer(nn.Module):
  """Every number of a latent is one of its own few trained values; D log2(num_values) bits.

  Made for latents whose numbers mean something each. Add 0.01 of `loss` and of `codebook_loss`,
  and decay the weights around it strongly, but not the values.

  Attributes:
    num_values: values of each number.
    features: size D of a latent, one codebook a number.
  """

  num_values: int
  features: int

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (self.num_values,) * self.features

  def setup(self):
    F.check_positive(num_values=self.num_values, features=self.features)
    self.values = self.param("values", _spread, (self.features, self.num_values))

  def encode(self, z):
    """Codes: [..., D] -> int32 [..., D]."""
    return F.nearest_value(_finite(z, self.features), self.values)

  def decode(self, codes):
    """Latents: [..., D] -> [..., D]."""
    F.check_codes(codes, self.codebook_sizes, self.features)
    return F.lookup_values(codes, self.values)

  def __call__(self, z, mask=None) -> Quantized:
    """Quantizes z [..., D]; losses are means over rows and D of the squared distance."""
    z, valid = F.clean_latents(z, self.features, mask)
    codes = jnp.where(valid[..., None], F.nearest_value(z, self.values), -1)
    chosen = F.lookup_values(codes, self.values)
    held, seen = jax.lax.stop_gradient((chosen, z))
    number = jnp.maximum(valid.sum() * self.features, 1)
    return Quantized(
      F.straight_through(z, held),
      codes,
      jnp.sum((z - held) ** 2) / number,
      F.code_health(F.code_counts(codes, self.num_values)),
      codebook_loss=jnp.sum((chosen - seen) ** 2) / number,
    )


def _spread(key, shape):
  del key
  return jnp.broadcast_to(jnp.linspace(-0.5, 0.5, shape[1]), shape)


def _finite(z, features: int):
  return jnp.nan_to_num(F.check_latents(z, features), posinf=0.0, neginf=0.0)


class Projections(nn.Module):
  """From a latent [..., wide] to the numbers that are rounded, and back; nothing where sizes agree.

  In float32: a rounding near its edge must not hang on the type of the network around it.
  """

  wide: int
  narrow: int

  def setup(self):
    if self.wide != self.narrow:
      self.into = _Affine(self.wide, self.narrow)
      self.back = _Affine(self.narrow, self.wide)

  def __call__(self, z):
    return self.into(z) if self.wide != self.narrow else z

  def out(self, values, known):
    """Latents of values [..., narrow]; zeros in the rows that `known` [...] leaves out."""
    return self.back(values, known) if self.wide != self.narrow else values


class _Affine(nn.Module):
  """A dense layer whose bias is one more row of its kernel: what is left out gives zeros."""

  inputs: int
  outputs: int

  @nn.compact
  def __call__(self, x, known=None):
    kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.inputs, self.outputs))
    bias = self.param("bias", nn.initializers.zeros, (self.outputs,))
    if known is None:
      return F.thin_matmul(x, kernel) + bias
    x = jnp.where(known[..., None], x, 0)
    x = jnp.concatenate([x, known[..., None].astype(x.dtype)], axis=-1)
    return F.thin_matmul(x, jnp.concatenate([kernel, bias[None]]))
