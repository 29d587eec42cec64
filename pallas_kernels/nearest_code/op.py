"""Nearest codebook entry: argmin_k |z - e_k|^2.

Numerics: float32 whatever the inputs are; ties go to the lowest index.
"""

import jax

from pallas_kernels.nearest_code import reference


def nearest_code(z: jax.Array, codebook: jax.Array) -> jax.Array:
  """Index of the entry nearest to each vector.

  Args:
    z: `[*N, D]` vectors, any float type.
    codebook: `[K, D]` entries.

  Returns:
    int32 `[*N]`, each in `[0, K)`; it carries no gradient.

  Raises:
    ValueError: if the feature sizes differ or the codebook is empty.
  """
  if codebook.ndim != 2 or codebook.shape[0] == 0:
    raise ValueError(f"codebook must be [K, D] with K >= 1, got shape {codebook.shape}")
  if z.shape[-1] != codebook.shape[-1]:
    raise ValueError(f"z has {z.shape[-1]} features, codebook has {codebook.shape[-1]}")
  z, codebook = jax.lax.stop_gradient((z, codebook))
  rows = z.reshape(-1, z.shape[-1])
  return reference.nearest_code(rows, codebook).reshape(z.shape[:-1])
