"""One codebook: look up, pass the gradient on, and say what moves the entries.

Shapes: z [..., D] latents, codebook [K, D], codes int32 [...]. Float32 throughout.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcodec.functional.codebook import CodeStatistics, code_statistics, lookup
from pallas_kernels import nearest_code

# As many distances as are held at once, 256 MB of them.
_DISTANCES = 1 << 26


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


def nearest_entry(z, codebook):
  """`nearest_code` in bounded memory: rows in turns where rows times entries are very many."""
  rows = z.reshape(-1, z.shape[-1])
  if rows.shape[0] * codebook.shape[0] <= _DISTANCES:
    return nearest_code(z, codebook)
  turn = max(1, _DISTANCES // codebook.shape[0])
  rows, codebook = jax.lax.stop_gradient((rows, codebook))
  turns = -(-rows.shape[0] // turn)
  padded = jnp.pad(rows, ((0, turns * turn - rows.shape[0]), (0, 0)))
  codes = jax.lax.map(lambda part: nearest_code(part, codebook), padded.reshape(turns, turn, -1))
  return codes.reshape(-1)[: rows.shape[0]].reshape(z.shape[:-1])


def vector_quantize(z, codebook, valid, search=nearest_entry) -> VectorQuantized:
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
