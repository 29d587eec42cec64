"""Weights as sums of codewords: AQLM's additive codebooks.

Plain JAX on every platform: a TPU has no quick look-up in a table of 2^16 codewords, and XLA's
gather is as good as any. Shapes as in AQLM: weights [N, K] (out, in) in tiles of A x B, M codebooks
of E entries; usually A = 1, B = 8, and M x log2 E is 1 x 16 or 2 x 8.
Source: Egiazarian et al., https://arxiv.org/abs/2401.06118, section 3.1.
"""

import jax
import jax.numpy as jnp

from pallas_kernels import checks

# Up to this many rows of x, tables of all products with codewords are less work than weights.
TABLE_ROWS, TABLE_ENTRIES = 2, 256


def additive_dequantize(codes: jax.Array, codebooks: jax.Array, scales: jax.Array) -> jax.Array:
  """Weights [N, K]: in each tile the scaled sum of one codeword a codebook.

  Args:
    codes: int `[N / A, K / B, M]`; one that is out of range is taken as the nearest in it.
    codebooks: `[M, E, A, B]`, float.
    scales: `[N / A, 1]`, or `[N / A, K / B]`.

  Returns:
    `[N, K]` in the type of the codebooks. Gradients go to codebooks and scales.

  Raises:
    ValueError: if shapes do not fit.
  """
  _check(codes, codebooks, scales)
  out, into, _ = codes.shape
  tiles = _chosen(codebooks, codes) * scales[..., None, None].astype(codebooks.dtype)
  rows, columns = codebooks.shape[2:]
  return tiles.swapaxes(1, 2).reshape(out * rows, into * columns)


def additive_matmul(
  x: jax.Array, codes: jax.Array, codebooks: jax.Array, scales: jax.Array
) -> jax.Array:
  """x @ weights.T, float32 sums, for weights as in `additive_dequantize`.

  For one or two rows of `x` and codebooks of at most 256 one-row entries, the products of each
  part of `x` with all codewords are looked up instead of the codewords.

  Args:
    x: `[*M, K]`.
    codes, codebooks, scales: see `additive_dequantize`.

  Returns:
    `[*M, N]` in the type of `x`. Gradients go to `x`, codebooks and scales.

  Raises:
    ValueError: if shapes do not fit.
  """
  checks.floating(x=x)
  _check(codes, codebooks, scales)
  out, into = codes.shape[:2]
  _, entries, rows, columns = codebooks.shape
  if x.ndim < 1 or x.shape[-1] != into * columns:
    raise ValueError(f"x {x.shape} does not fit codes {codes.shape} of tiles {rows} x {columns}")
  flat = x.reshape(-1, into * columns) if x.size else jnp.zeros((0, into * columns), x.dtype)
  if rows == 1 and entries <= TABLE_ENTRIES and 0 < flat.shape[0] <= TABLE_ROWS:
    y = _by_table(flat, codes, codebooks, scales)
  else:
    w = additive_dequantize(codes, codebooks, scales).astype(x.dtype)
    y = jax.lax.dot_general(flat, w, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
  return y.astype(x.dtype).reshape(*x.shape[:-1], out * rows)


def _by_table(x, codes, codebooks, scales):
  _, into, number = codes.shape
  parts = x.reshape(x.shape[0], into, codebooks.shape[3]).astype(jnp.float32)
  table = jnp.einsum(
    "rgb,meb->rgme",
    parts,
    codebooks[:, :, 0].astype(jnp.float32),
    precision=jax.lax.Precision.HIGHEST,
  )
  codes = jnp.clip(codes.astype(jnp.int32), 0, codebooks.shape[1] - 1)
  place = jnp.arange(into)[:, None] * number + jnp.arange(number)
  place = place * codebooks.shape[1] + codes
  flat = table.reshape(x.shape[0], -1)
  products = jnp.take(flat, place, axis=1, mode="clip").sum(-1)
  return (products * scales.astype(jnp.float32)).sum(-1)


def _chosen(codebooks, codes):
  total = jnp.take(codebooks[0], codes[..., 0], axis=0, mode="clip")
  for book in range(1, codebooks.shape[0]):
    total = total + jnp.take(codebooks[book], codes[..., book], axis=0, mode="clip")
  return total


def _check(codes, codebooks, scales):
  fits = codes.ndim == 3 and codebooks.ndim == 4 and scales.ndim == 2
  if not fits or codes.shape[2] != codebooks.shape[0] or 0 in codebooks.shape:
    raise ValueError(f"codes {codes.shape} do not fit codebooks {codebooks.shape}")
  checks.integers(codes=codes)
  if scales.shape[0] != codes.shape[0] or scales.shape[1] not in (1, codes.shape[1]):
    raise ValueError(f"scales {scales.shape} do not fit codes {codes.shape}")
