"""Codebooks from data: k-means, alone and stage by stage.

What is drawn depends on the key alone, not on how the rows lie over devices.
"""

import jax
import jax.numpy as jnp

from jaxcodec.functional.codebook import code_statistics, lookup
from jaxcodec.functional.quantize import EmaState
from pallas_kernels import nearest_code


def draw_rows(key, valid, number: int):
  """Indices int32 [number] of rows of `valid` [N], each once before any comes again."""
  order = jnp.argsort(jnp.where(valid, jax.random.uniform(key, valid.shape), jnp.inf))
  return order[jnp.arange(number) % jnp.maximum(valid.sum(), 1)]


def lloyd(rows, start, iterations: int, valid):
  """`(centres, counts)` after steps of k-means from `start` [K, D]; counts of the last step.

  A centre that no row [N, D] of `valid` [N] is nearest to stays where it is.
  """

  def step(centres, _):
    codes = jnp.where(valid, nearest_code(rows, centres), -1)
    counts, sums = code_statistics(rows, codes, centres.shape[0])
    means = sums / jnp.maximum(counts, 1)[:, None]
    return jnp.where(counts[:, None] > 0, means, centres), counts

  centres, counts = jax.lax.scan(step, start, None, length=iterations)
  return centres, counts[-1]


def kmeans(key, rows, size: int, iterations: int = 10, valid=None):
  """`(centres [K, D], EmaState)` of rows [N, D] by `lloyd` from rows drawn without return.

  The state holds the last counts and `counts * centres`, so that `ema_update` goes on from these
  very centres; a count of zero is set to 1e-3 for the same reason.

  Raises:
    ValueError: if `rows` is not [N, D] with N >= 1, or `size` is below 1.
  """
  if rows.ndim != 2 or rows.shape[0] == 0 or size < 1:
    raise ValueError(f"k-means needs rows [N, D], N >= 1, got {rows.shape} for {size} centres")
  rows = rows.astype(jnp.float32)
  finite = jnp.isfinite(rows).all(axis=-1)
  valid = finite if valid is None else finite & valid
  rows = jnp.where(valid[:, None], rows, 0)
  centres, counts = lloyd(rows, rows[draw_rows(key, valid, size)], iterations, valid)
  running = jnp.maximum(counts, 1e-3)
  return centres, EmaState(running, centres * running[:, None])


def residual_kmeans(
  key, rows, num_codebooks: int, size: int, iterations: int = 10, valid=None, bands=None
):
  """k-means of each stage on what the stages before leave: `([Q, K, D], EmaState)`.

  `bands` [Q, D] of zeros and ones are the channels that a stage sees; None for all.
  """
  finite = jnp.isfinite(rows).all(axis=-1)
  valid = finite if valid is None else finite & valid
  rows = jnp.where(valid[:, None], rows.astype(jnp.float32), 0)

  if bands is None:
    bands = jnp.ones((num_codebooks, 1))

  def stage(residual, inputs):
    key, band = inputs
    centres, ema = kmeans(key, residual * band, size, iterations, valid)
    codes = jnp.where(valid, nearest_code(residual * band, centres), -1)
    return residual - lookup(codes, centres), (centres, ema)

  stages = jax.random.split(key, num_codebooks), jnp.asarray(bands)
  _, found = jax.lax.scan(stage, rows, stages)
  return found
