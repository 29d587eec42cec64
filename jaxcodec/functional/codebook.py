"""What every bottleneck shares: rows that count, entries of codes, statistics and health.

Shapes: z [..., D] latents, codes int32 [...] or [..., Q], codebook [K, D]. A code of -1 stands for
a row that is masked or a stage that is left out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class CodeStatistics(NamedTuple):
  """What a batch says of a codebook: counts [Q, K] and sums [Q, K, D] of the vectors of each
  entry."""

  counts: jax.Array
  sums: jax.Array


def valid_rows(z, mask=None):
  """The rows that count, bool `z.shape[:-1]`: those under the mask whose numbers are all finite.

  Raises:
    ValueError: if `mask` is not bool or has another shape than `z` without its features.
  """
  finite = jnp.abs(z).max(axis=-1, initial=0) < jnp.inf  # One pass; a NaN is the largest.
  if mask is None:
    return finite
  if jnp.shape(mask) != z.shape[:-1] or jnp.asarray(mask).dtype != bool:
    raise ValueError(
      f"mask must be bool {z.shape[:-1]} for z {z.shape}, "
      f"got {jnp.asarray(mask).dtype} {jnp.shape(mask)}"
    )
  return finite & mask


def check_latents(z, features: int):
  """`z` in float32.

  Raises:
    ValueError: if `z` is no float array [..., features].
  """
  z = jnp.asarray(z)
  if z.ndim < 1 or z.shape[-1] != features:
    raise ValueError(f"z must be [..., {features}], got shape {z.shape}")
  if not jnp.issubdtype(z.dtype, jnp.floating):
    raise ValueError(f"z must be of floats, got {z.dtype} {z.shape}")
  return z.astype(jnp.float32)


def clean_latents(z, features: int, mask=None):
  """`(z, valid)`: z in float32 with zeros in the rows that do not count, see `valid_rows`.

  Zeros, because a NaN that is only masked later still is the gradient of its row.

  Raises:
    ValueError: if `z` is no float array [..., features] or the mask has a wrong shape.
  """
  z = check_latents(z, features)
  valid = valid_rows(z, mask)
  return jnp.where(valid[..., None], z, 0), valid


def check_codes(codes, sizes: tuple[int, ...], fewest: int = 1) -> None:
  """Refuses codes that no codebook of these sizes can have given.

  Values are looked at where they are known, so not while `jax.jit` traces.

  Raises:
    ValueError: if `codes` are no integers [..., Q] with `fewest` <= Q <= len(sizes), or one of
      them is below -1 or not below its codebook's size.
  """
  if jnp.ndim(codes) < 1 or not fewest <= jnp.shape(codes)[-1] <= len(sizes):
    wanted = f"{fewest} to {len(sizes)}" if fewest < len(sizes) else str(fewest)
    raise ValueError(f"codes must be [..., {wanted}], got shape {jnp.shape(codes)}")
  if not jnp.issubdtype(jnp.result_type(codes), jnp.integer):
    raise ValueError(f"codes must be integers, got {jnp.result_type(codes)} {jnp.shape(codes)}")
  if isinstance(codes, jax.core.Tracer):
    return
  known = np.asarray(codes)
  limit = np.asarray(sizes[: known.shape[-1]])
  if (known < -1).any() or (known >= limit).any():
    raise ValueError(
      f"codes {known.shape} hold {known.min()} to {known.max()}, codebooks have {sizes} entries"
    )


def check_positive(**numbers: int) -> None:
  """Raises ValueError, naming it, for a size that is not a positive integer."""
  for name, number in numbers.items():
    if number < 1:
      raise ValueError(f"{name} must be at least 1, got {number}")


def lookup(codes, codebook):
  """Entries [..., D] of codes [...]; zeros for a code that is none."""
  known = (codes >= 0) & (codes < codebook.shape[0])
  return jnp.where(known[..., None], codebook[jnp.where(known, codes, 0)], 0)


def masked_mean(x, valid):
  """Mean of `x` over the places of `valid`, a bool array of the shape of `x`; 0 if none is."""
  return jnp.where(valid, x, 0).sum() / jnp.maximum(valid.sum(), 1)


def code_counts(codes, size: int):
  """How often each code occurs, float32 [Q, size] for codes [..., Q]; -1 counts for nothing."""
  codes = codes.reshape(-1, codes.shape[-1]).T
  stages = jnp.arange(codes.shape[0])[:, None]
  # A code of -1 falls outside, to the right.
  places = jnp.where(codes >= 0, codes, size)
  return jnp.zeros((codes.shape[0], size)).at[stages, places].add(1.0, mode="drop")


def code_statistics(z, codes, size: int) -> CodeStatistics:
  """Counts [size] and sums [size, D] of the vectors `z` [..., D] that have each code [...].

  Under jit with a sharded batch the sums run over the whole batch, not over a device's part of it.
  """
  z, codes = z.reshape(-1, z.shape[-1]), codes.reshape(-1)
  index = jnp.where(codes >= 0, codes, size)
  counts = jnp.zeros(size).at[index].add(1.0, mode="drop")
  sums = jnp.zeros((size, z.shape[-1]), z.dtype).at[index].add(z, mode="drop")
  return CodeStatistics(counts, sums)


def code_health(counts) -> dict[str, jax.Array]:
  """How well a batch uses its codebooks, from counts [Q, K].

  `codebook_use`: the share of entries that occur. `perplexity`: 2 to the entropy of the codes, as
  many entries as would give it if used alike; 0 for an empty batch. `dead_codes`: how many entries
  do not occur. Each is a scalar, the mean over stages, and stands once more for each stage q under
  `NAME/q`. A batch smaller than K leaves entries out by its size alone: sum the counts of many.
  """
  counts = jnp.asarray(counts, jnp.float32)
  total = counts.sum(axis=-1, keepdims=True)
  share = counts / jnp.maximum(total, 1)
  entropy = -jnp.sum(share * jnp.log(jnp.where(share > 0, share, 1)), axis=-1)
  found = {
    "codebook_use": jnp.mean(counts > 0, axis=-1),
    "perplexity": jnp.where(total[..., 0] > 0, jnp.exp(entropy), 0),
    "dead_codes": jnp.sum(counts == 0, axis=-1).astype(jnp.float32),
  }
  metrics = {name: value.mean() for name, value in found.items()}
  for name, value in found.items():
    metrics |= {f"{name}/{stage}": value[stage] for stage in range(counts.shape[0])}
  return metrics
