"""Residual vector quantization as pure functions, float32 throughout.

Shapes: z [..., D] latents, codebook [K, D], codebooks [Q, K, D], codes int32 [..., Q].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcodec.functional.codebook import CodeStatistics, code_statistics, lookup
from pallas_kernels import dequantize, nearest_code, residual_quantize as quantize_stages


class ResidualQuantized(NamedTuple):
  """What a residual quantizer gives in training; see `Quantized` of the bottlenecks.

  Attributes:
    z: [..., D], the sum of the chosen entries, without any gradient.
    codes: int32 [..., Q], -1 where a stage is not active.
    commitment: mean over active (row, stage) pairs and D of (given - entry)^2, the entry held
      still.
    codebook: the same with what the stage was given held still.
    statistics: counts [Q, K] and sums [Q, K, D] of what each entry was given.
  """

  z: jax.Array
  codes: jax.Array
  commitment: jax.Array
  codebook: jax.Array
  statistics: CodeStatistics


def residual_quantize(z, codebooks, active, bands=None) -> ResidualQuantized:
  """One pass over the stages of a residual quantizer.

  A stage subtracts entries that carry no gradient, so every stage pulls the encoder. Released code
  of EnCodec and HiFi-Codec subtracts the straight-through output instead, which leaves z out of
  all stages but the first.

  Args:
    z: float32 [..., D].
    codebooks: [Q, K, D].
    active: bool [..., Q], the stages that a row uses.
    bands: float32 [Q, D] of zeros and ones, the channels that a stage sees; its entries are zero
      in the others. None for all.
  """
  if bands is None:
    bands = jnp.ones((codebooks.shape[0], 1))

  def stage(carry, inputs):
    residual, total = carry
    codebook, band, active = inputs
    given = residual * band
    codes = jnp.where(active, nearest_code(given, codebook), -1)
    chosen = lookup(codes, codebook)
    held, seen = jax.lax.stop_gradient((chosen, given))
    known = active[..., None]
    commitment = jnp.sum(jnp.where(known, (given - held) ** 2, 0))
    codebook_loss = jnp.sum(jnp.where(known, (chosen - seen) ** 2, 0))
    statistics = code_statistics(seen, codes, codebook.shape[0])
    carry = residual - held, total + held
    return carry, (codes, commitment, codebook_loss, statistics)

  stages = codebooks, bands, jnp.moveaxis(active, -1, 0)
  carry = z, jnp.zeros_like(z)
  (_, total), (codes, *losses, statistics) = jax.lax.scan(stage, carry, stages)
  number = jnp.maximum(active.sum() * z.shape[-1], 1)
  commitment, codebook_loss = (loss.sum() / number for loss in losses)
  return ResidualQuantized(total, jnp.moveaxis(codes, 0, -1), commitment, codebook_loss, statistics)


def active_stages(valid, num_codebooks: int, num_active=None):
  """Which stages each row uses, bool [..., Q], for `valid` bool [...].

  Args:
    valid: the rows that count.
    num_codebooks: Q.
    num_active: how many stages to use, integers of the first dimensions of `valid`: one number,
      [B] or more; None for all.

  Raises:
    ValueError: if `num_active` has a shape that `valid` does not begin with.
  """
  active = jnp.broadcast_to(valid[..., None], (*valid.shape, num_codebooks))
  if num_active is None:
    return active
  num_active = jnp.asarray(num_active)
  if num_active.shape != valid.shape[: num_active.ndim]:
    raise ValueError(f"num_active {num_active.shape} must begin as the rows do, {valid.shape}")
  missing = active.ndim - num_active.ndim
  return active & (
    jnp.arange(num_codebooks) < num_active.reshape(num_active.shape + (1,) * missing)
  )


def draw_num_active(key, batch: int, num_codebooks: int, probability: float = 0.5):
  """Quantizer dropout: int32 [batch]; with `probability` uniform in 1..Q, else all Q.

  Source: SoundStream, https://arxiv.org/abs/2107.03312, III-C; DAC uses 0.5.
  """
  drawn_key, key = jax.random.split(key)
  drawn = jax.random.randint(drawn_key, (batch,), 1, num_codebooks + 1)
  return jnp.where(jax.random.bernoulli(key, probability, (batch,)), drawn, num_codebooks)


def residual_encode(z, codebooks, bands=None):
  """Codes of `z`: stage q codes what stages 0..q-1 left over; [..., D] -> int32 [..., Q].

  Ties go to the lowest index. Source: SoundStream, https://arxiv.org/abs/2107.03312, III-C.

  Args:
    z: `[..., D]`.
    codebooks: `[Q, K, D]`.
    bands: as of `residual_quantize`.

  Raises:
    ValueError: if the feature sizes of `z` and `codebooks` differ.
  """
  if z.shape[-1] != codebooks.shape[-1]:
    raise ValueError(f"z has {z.shape[-1]} features, codebooks have {codebooks.shape[-1]}")
  if bands is None:
    return quantize_stages(z, codebooks)[0]

  def stage(residual, inputs):
    codebook, band = inputs
    codes = nearest_code(residual * band, codebook)
    return residual - codebook[codes], codes

  # float32: in bfloat16 two near codes swap from one batch size to the next.
  _, codes = jax.lax.scan(stage, z.astype(jnp.float32), (codebooks, bands))
  return jnp.moveaxis(codes, 0, -1)


def residual_decode(codes, codebooks):
  """Sum of the coded entries, added in the order of the stages; [..., Q] -> [..., D].

  `codes` may hold fewer stages than `codebooks`: the first ones. A code outside the codebook, such
  as the -1 of a dropped stage, adds nothing.

  Raises:
    ValueError: if there are more codes than codebooks.
  """
  stages = codes.shape[-1]
  if stages > codebooks.shape[0]:
    raise ValueError(f"{stages} codes for {codebooks.shape[0]} codebooks")

  return dequantize(codes, codebooks[:stages])


def residual_inputs(z, codes, codebooks):
  """What each stage was given, [Q, ..., D], for codes [..., Q] of z [..., D]."""

  def stage(residual, inputs):
    codebook, codes = inputs
    return residual - lookup(codes, codebook), residual

  _, inputs = jax.lax.scan(stage, z.astype(jnp.float32), (codebooks, jnp.moveaxis(codes, -1, 0)))
  return inputs


def residual_statistics(z, codes, codebooks) -> CodeStatistics:
  """Counts and sums per entry of what each stage was given; z [N, D], codes [N, Q].

  A code of -1 counts for nothing, so a dropped stage or a padded row does not move a codebook.
  Under jit with a sharded batch the sums run over the whole batch, not over a device's part of it.
  """

  def stage(residual, inputs):
    codebook, codes = inputs
    statistics = code_statistics(residual, codes, codebook.shape[0])
    return residual - lookup(codes, codebook), statistics

  _, statistics = jax.lax.scan(stage, z.astype(jnp.float32), (codebooks, codes.T))
  return statistics


class EmaState(NamedTuple):
  """Running counts [..., K] and sums [..., K, D] of the vectors of each entry."""

  counts: jax.Array
  sums: jax.Array


def ema_state(codebooks, count: float = 1.0) -> EmaState:
  """The state from which `ema_update` leaves codebooks [..., K, D] where they are."""
  counts = jnp.full(codebooks.shape[:-1], count, jnp.float32)
  return EmaState(counts, codebooks * count)


def ema_update(
  ema: EmaState, statistics: CodeStatistics, decay: float, epsilon: float = 1e-5
) -> tuple[jax.Array, EmaState]:
  """Moves the codebooks to the running mean of their vectors; returns `(codebooks, ema)`.

  n <- g n + (1 - g) count, m <- g m + (1 - g) sum, e = m / n', with the Laplace-smoothed
  n' = (n + eps) / (sum n + K eps) * sum n. Source: van den Oord et al., https://arxiv.org/abs/1711.00937,
  appendix A.1; the smoothing is Sonnet's.
  """
  counts = decay * ema.counts + (1 - decay) * statistics.counts
  sums = decay * ema.sums + (1 - decay) * statistics.sums
  total = counts.sum(axis=-1, keepdims=True)
  smoothed = (counts + epsilon) / (total + counts.shape[-1] * epsilon) * total
  # A state without counts, before its first batch, has sums without meaning.
  return sums / jnp.maximum(smoothed, 1e-30)[..., None], EmaState(counts, sums)


def restart_dead_codes(key, codebooks, ema: EmaState, residuals, threshold, valid=None):
  """Entries used less than `threshold` become vectors of the batch; returns `(codebooks, ema)`.

  Counts and sums of a restarted entry are set with it; were they left, the next `ema_update` would
  put the old entry back (EnCodec's released code does). The draw depends on the key alone, not on
  how the batch lies over devices.

  Args:
    key: a PRNG key.
    codebooks: `[..., K, D]`.
    ema: of the same shape.
    residuals: `[..., N, D]`, what each stage was given.
    threshold: a number or `[..., 1]`.
    valid: bool `[N]` or `[..., N]`, the rows to draw from; None for all. Where there is none,
      nothing is restarted.
  """
  if residuals.shape[-2] == 0:
    return codebooks, ema
  if valid is None:
    rows = jax.random.randint(key, ema.counts.shape, 0, residuals.shape[-2])
    dead = ema.counts < threshold
  else:
    rank = jnp.cumsum(jnp.broadcast_to(valid, residuals.shape[:-1]), axis=-1)
    number = rank[..., -1:]
    wanted = jax.random.randint(key, ema.counts.shape, 0, jnp.maximum(number, 1)) + 1
    rows = jnp.vectorize(jnp.searchsorted, signature="(n),(k)->(k)")(rank, wanted)
    dead = (ema.counts < threshold) & (number > 0)
  fresh = jnp.take_along_axis(residuals, rows[..., None], axis=-2)
  counts = jnp.where(dead, threshold, ema.counts)
  sums = jnp.where(dead[..., None], fresh * counts[..., None], ema.sums)
  return jnp.where(dead[..., None], fresh, codebooks), EmaState(counts, sums)
