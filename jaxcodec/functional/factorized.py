"""Factorised residual quantization: each stage looks its code up in a few dimensions.

Shapes: z [..., D] latents, codes int32 [..., Q]; d is the width of the look-up. Float32 throughout.
Source: DAC, https://arxiv.org/abs/2306.06546, section 3.2; dac/nn/quantize.py of its code.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcodec.functional.through import straight_through
from pallas_kernels import nearest_code


class FactorizedCodebooks(NamedTuple):
  """The parameters of Q stages.

  Attributes:
    in_kernel, in_bias: [Q, D, d] and [Q, d], from a residual to where it is looked up.
    entries: [Q, K, d].
    out_kernel, out_bias: [Q, d, D] and [Q, D], from an entry to what the stage adds.
  """

  in_kernel: jax.Array
  in_bias: jax.Array
  entries: jax.Array
  out_kernel: jax.Array
  out_bias: jax.Array


class FactorizedLosses(NamedTuple):
  """What moves encoder and codebooks, each summed over stages and averaged over the batch.

  Attributes:
    commitment: mean over (rows, d) of |projection - entry|^2, the entry held still.
    codebook: the same with the projection held still.
  """

  commitment: jax.Array
  codebook: jax.Array


def nearest_direction(z, entries):
  """Index of the entry [K, d] at the smallest angle to each z [..., d]; ties to the lowest.

  Both are divided by their norms, or by 1e-12 where a norm is less.
  """
  z, entries = jax.lax.stop_gradient((z, entries))
  return nearest_code(_direction(z), _direction(entries))


def factorized_encode(z, books: FactorizedCodebooks):
  """Codes of `z`: stage q codes what stages 0..q-1 left over; [..., D] -> int32 [..., Q].

  Raises:
    ValueError: if the feature sizes of `z` and the codebooks differ.
  """
  if z.shape[-1] != books.in_kernel.shape[1]:
    raise ValueError(f"z has {z.shape[-1]} features, codebooks have {books.in_kernel.shape[1]}")

  def stage(residual, book: FactorizedCodebooks):
    codes = nearest_direction(_project(residual, book.in_kernel, book.in_bias), book.entries)
    entries = book.entries[codes]
    return residual - _project(entries, book.out_kernel, book.out_bias), codes

  # float32: in bfloat16 two near codes swap from one batch size to the next.
  _, codes = jax.lax.scan(stage, z.astype(jnp.float32), books)
  return jnp.moveaxis(codes, 0, -1)


def factorized_decode(codes, books: FactorizedCodebooks):
  """Sum of what the coded stages add, in their order; [..., Q] -> [..., D].

  `codes` may hold fewer stages than there are: the first ones. A code outside the codebook, such
  as the -1 of a dropped stage, adds nothing, not even the stage's bias.

  Raises:
    ValueError: if there are more codes than codebooks.
  """
  stages = codes.shape[-1]
  if stages > books.entries.shape[0]:
    raise ValueError(f"{stages} codes for {books.entries.shape[0]} codebooks")

  def add(total, stage):
    book, codes = stage
    known = (codes >= 0) & (codes < book.entries.shape[0])
    entries = book.entries[jnp.where(known, codes, 0)]
    value = _project(entries, book.out_kernel, book.out_bias)
    return total + jnp.where(known[..., None], value, 0), None

  used = jax.tree.map(lambda leaf: leaf[:stages], books)
  zeros = jnp.zeros((*codes.shape[:-1], books.out_kernel.shape[-1]), books.out_kernel.dtype)
  total, _ = jax.lax.scan(add, zeros, (used, jnp.moveaxis(codes, -1, 0)))
  return total


def factorized_straight_through(z, codes, books: FactorizedCodebooks, valid):
  """`factorized_decode(codes)` with the gradient of training, and the losses: `(z_q, losses)`.

  An entry hands its gradient to the projection that chose it. A stage's residual keeps the
  gradient of the stages before it.

  Args:
    z: `[..., D]`.
    codes: `[..., Q]` of `z`; -1 where a row leaves a stage out.
    valid: bool `[...]`, the rows that the means are over.
  """

  def stage(carry, inputs):
    residual, total = carry
    book, codes = inputs
    known = (codes >= 0)[..., None]
    projection = _project(residual, book.in_kernel, book.in_bias)
    entries = book.entries[jnp.maximum(codes, 0)]
    passed = projection + jax.lax.stop_gradient(entries - projection)
    value = _project(passed, book.out_kernel, book.out_bias)
    commitment = (projection - jax.lax.stop_gradient(entries)) ** 2
    codebook = (entries - jax.lax.stop_gradient(projection)) ** 2
    losses = [jnp.sum(jnp.where(known, loss, 0)) / number for loss in (commitment, codebook)]
    carry = residual - value, total + jnp.where(known, value, 0)
    return carry, FactorizedLosses(*losses)

  z = z.astype(jnp.float32)
  number = jnp.maximum(valid.sum() * books.entries.shape[-1], 1)
  (_, total), losses = jax.lax.scan(
    stage, (z, jnp.zeros_like(z)), (books, jnp.moveaxis(codes, -1, 0))
  )
  z_q = factorized_decode(codes, books)
  return straight_through(total, jax.lax.stop_gradient(z_q)), jax.tree.map(jnp.sum, losses)


def _direction(x):
  norm = jnp.sqrt(jnp.sum(x.astype(jnp.float32) ** 2, axis=-1, keepdims=True))
  return x / jnp.maximum(norm, 1e-12)


def _project(x, kernel, bias):
  return jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST) + bias
