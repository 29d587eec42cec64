"""Vector quantization as pure functions, float32 throughout.

Shapes: z [..., D] latents, codebook [K, D], codebooks [Q, K, D], codes int32 [..., Q].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels import nearest_code


class CodeStatistics(NamedTuple):
  """What a batch says of a codebook: counts [Q, K] and sums [Q, K, D] of the vectors of each
  entry."""

  counts: jax.Array
  sums: jax.Array


def straight_through(z, z_q):
  """The very bits of `z_q` forward, the identity to `z` backward."""
  return jax.lax.stop_gradient(z_q) + (z - jax.lax.stop_gradient(z))


def residual_encode(z, codebooks):
  """Codes of `z`: stage q codes what stages 0..q-1 left over; [..., D] -> int32 [..., Q].

  Ties go to the lowest index. Source: SoundStream, https://arxiv.org/abs/2107.03312, III-C.

  Raises:
    ValueError: if the feature sizes of `z` and `codebooks` differ.
  """
  if z.shape[-1] != codebooks.shape[-1]:
    raise ValueError(f"z has {z.shape[-1]} features, codebooks have {codebooks.shape[-1]}")

  def stage(residual, codebook):
    codes = nearest_code(residual, codebook)
    return residual - codebook[codes], codes

  # float32: in bfloat16 two near codes swap from one batch size to the next.
  _, codes = jax.lax.scan(stage, z.astype(jnp.float32), codebooks)
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

  def add(total, stage):
    codebook, codes = stage
    known = (codes >= 0) & (codes < codebook.shape[0])
    entries = codebook[jnp.where(known, codes, 0)]
    return total + jnp.where(known[..., None], entries, 0), None

  zeros = jnp.zeros((*codes.shape[:-1], codebooks.shape[-1]), codebooks.dtype)
  total, _ = jax.lax.scan(add, zeros, (codebooks[:stages], jnp.moveaxis(codes, -1, 0)))
  return total


def residual_statistics(z, codes, codebooks) -> CodeStatistics:
  """Counts and sums per entry of what each stage was given; z [N, D], codes [N, Q].

  A code of -1 counts for nothing, so a dropped stage or a padded row does not move a codebook.
  Under jit with a sharded batch the sums run over the whole batch, not over a device's part of it.
  """

  def stage(residual, inputs):
    codebook, codes = inputs
    size = codebook.shape[0]
    index = jnp.where(codes >= 0, codes, size)
    counts = jnp.zeros(size).at[index].add(1.0, mode="drop")
    sums = jnp.zeros_like(codebook).at[index].add(residual, mode="drop")
    entries = jnp.where((codes >= 0)[:, None], codebook[jnp.maximum(codes, 0)], 0)
    return residual - entries, CodeStatistics(counts, sums)

  _, statistics = jax.lax.scan(stage, z.astype(jnp.float32), (codebooks, codes.T))
  return statistics


class EmaState(NamedTuple):
  """Running counts [Q, K] and sums [Q, K, D] of the vectors of each entry."""

  counts: jax.Array
  sums: jax.Array


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
  return sums / smoothed[..., None], EmaState(counts, sums)


def restart_dead_codes(key, codebooks, ema: EmaState, residuals, threshold):
  """Entries used less than `threshold` become vectors of the batch; returns `(codebooks, ema)`.

  `residuals` [Q, N, D] is what each stage was given, `threshold` a number or [Q, 1]. Counts and
  sums of a restarted entry are set with it; were they left, the next `ema_update` would put the
  old entry back (EnCodec's released code does).
  """
  rows = jax.random.randint(key, ema.counts.shape, 0, residuals.shape[1])
  fresh = jnp.take_along_axis(residuals, rows[..., None], axis=1)
  dead = ema.counts < threshold
  counts = jnp.where(dead, threshold, ema.counts)
  sums = jnp.where(dead[..., None], fresh * counts[..., None], ema.sums)
  return jnp.where(dead[..., None], fresh, codebooks), EmaState(counts, sums)
