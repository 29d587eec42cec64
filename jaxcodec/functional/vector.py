"""One codebook: look up, pass the gradient on, and say what moves the entries.

Shapes: z [..., D] latents, codebook [K, D], codes int32 [...]. Float32 throughout.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcodec.functional.codebook import CodeStatistics, code_statistics, lookup
from pallas_kernels import nearest_code


class VectorQuantized(NamedTuple):
  """What one look-up gives; see `Quantized` of the bottlenecks.

  Attributes:
    z: the entries, [..., D], without a gradient to `z`.
    codes: int32 [...], -1 in rows that do not count.
    commitment: mean over rows that count and D of (z - entry)^2, the entry held still.
    codebook: the same with z held still.
    statistics: counts [K] and sums [K, D] of what each entry was given.
  """

  z: jax.Array
  codes: jax.Array
  commitment: jax.Array
  codebook: jax.Array
  statistics: CodeStatistics


def vector_quantize(z, codebook, valid, search=nearest_code) -> VectorQuantized:
  """Nearest entries of the rows of `z` that `valid` [...] holds; ties go to the lowest index.

  Source: van den Oord et al., https://arxiv.org/abs/1711.00937, equations 1 to 3.
  """
  codes = jnp.where(valid, search(z, codebook), -1)
  chosen = lookup(codes, codebook)
  held, seen = jax.lax.stop_gradient((chosen, z))
  # A row that does not count is zero, and so is what it looks up.
  number = jnp.maximum(valid.sum() * z.shape[-1], 1)
  commitment = jnp.sum((z - held) ** 2) / number
  codebook_loss = jnp.sum((chosen - seen) ** 2) / number
  statistics = code_statistics(seen, codes, codebook.shape[0])
  return VectorQuantized(chosen, codes, commitment, codebook_loss, statistics)


def unit(x):
  """`x` [..., D] at length 1; a vector shorter than 1e-12 stays short. Its gradient is finite."""
  square = jnp.sum(x**2, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
