"""Nearest codebook entry on a GPU: scores live in registers, of each row the best of 128 classes.

A program has 128 rows and goes by all entries, 128 at a time, which tensor cores multiply. Entry k
is of class k mod 128, its column in a tile of scores; of each class the least score and its entry
stay. The best of the classes are handed out at the end. Rows wait on the chip where they have at
most WHOLE bytes; longer ones are read again, a part at a time, for each tile of entries.

Numerics: as `triton.products`; ties go to the lowest index.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels import triton
from pallas_kernels.dispatch import shape_like

ROWS, CLASSES, PART = 128, 128, 64
# 64 KB of rows and as many of entries, in two stages, of the 227 KB that a program of an H100 gets;
# of float32, whose parts are copied once more, half.
WHOLE = {4: 256, 2: 512, 1: 512}
# Beyond any entry.
NONE = 1 << 30


def search(z, codebook, bias, factor, candidates: int, interpret=False) -> jax.Array:
  """As `tpu.search`, for any number of features."""
  (number, features), entries = z.shape, codebook.shape[0]
  if number == 0:
    return jnp.zeros((candidates, 0), jnp.int32)
  width = triton.power(features)
  if width * z.dtype.itemsize > WHOLE[z.dtype.itemsize]:
    width = PART
  turns = -(-entries // CLASSES)
  # No score past the last entry is less than one of an entry; infinity is where rows begin.
  beyond = float(jnp.finfo(jnp.float32).max) / 2
  bias = jnp.pad(bias, (0, turns * CLASSES - entries), constant_values=beyond)[None]
  operands = [z, codebook, bias] + ([] if factor is None else [factor[:, None]])
  return pl.pallas_call(
    functools.partial(
      _kernel,
      width=width,
      turns=turns,
      candidates=candidates,
      product=triton.products(interpret),
    ),
    out_shape=shape_like(z, (candidates, number), jnp.int32),
    grid=(-(-number // ROWS),),
    compiler_params=triton.params(warps=8, stages=2),
    interpret=interpret,
    name="nearest_code",
  )(*operands)


def _kernel(z_ref, codebook_ref, bias_ref, *refs, width: int, turns: int, candidates: int, product):
  *factor_ref, codes_ref = refs
  rows = triton.span(pl.program_id(0) * ROWS, ROWS)
  features, one = z_ref.shape[1], triton.span(0, 1)
  factor = triton.load(factor_ref[0], rows, one) if factor_ref else None
  whole = triton.load(z_ref, rows, triton.span(0, width)) if width >= features else None
  lanes = jnp.broadcast_to(triton.span(0, CLASSES)[None], (ROWS, CLASSES))

  # Rough scores hold their entry's turn in their last bits: one number to keep instead of two.
  last = 0 if z_ref.dtype == jnp.float32 else (1 << (turns - 1).bit_length()) - 1

  def scores(i, bias):
    entries = triton.span(i * CLASSES, CLASSES)
    score = _products(z_ref, codebook_ref, whole, rows, entries, width, product)
    return (score if factor is None else score * factor) + bias

  def rough_turn(i, kept):
    best, bias = kept
    ahead = triton.load(bias_ref, one, triton.span((i + 1) * CLASSES, CLASSES))
    score = jax.lax.bitcast_convert_type(scores(i, bias), jnp.int32) & ~last | i
    return jnp.minimum(best, jax.lax.bitcast_convert_type(score, jnp.float32)), ahead

  def turn(i, kept):
    best, group = kept
    score = scores(i, triton.load(bias_ref, one, triton.span(i * CLASSES, CLASSES)))
    less = score < best
    return jnp.where(less, score, best), jnp.where(less, i, group)

  best = jnp.full((ROWS, CLASSES), jnp.inf, jnp.float32)
  if last:
    bias = triton.load(bias_ref, one, triton.span(0, CLASSES))
    best, _ = jax.lax.fori_loop(0, turns, rough_turn, (best, bias))
    group = jax.lax.bitcast_convert_type(best, jnp.int32) & last
  else:
    group = jnp.zeros(best.shape, jnp.int32)
    best, group = jax.lax.fori_loop(0, turns, turn, (best, group))
  entry = group * CLASSES + lanes

  def place(i, best):
    least = jnp.min(best, axis=1, keepdims=True)
    first = jnp.min(jnp.where(best == least, entry, NONE), axis=1, keepdims=True)
    triton.store(codes_ref, first.reshape(1, ROWS), triton.span(i, 1), rows)
    return jnp.where(entry == first, jnp.inf, best)

  jax.lax.fori_loop(0, candidates, place, best)


def _products(z_ref, codebook_ref, whole, rows, entries, width, product):
  """z . e, float32 [ROWS, CLASSES]."""
  if whole is not None:
    columns = triton.span(0, width)
    return product(whole, triton.load(codebook_ref, entries, columns), 1, 1).astype(jnp.float32)

  def part(i, total):
    columns = triton.span(i * width, width)
    z, e = (
      triton.load(ref, lines, columns) for ref, lines in ((z_ref, rows), (codebook_ref, entries))
    )
    return total + product(z, e, 1, 1)

  whole_numbers = z_ref.dtype == jnp.int8
  start = jnp.zeros((ROWS, CLASSES), jnp.int32 if whole_numbers else jnp.float32)
  parts = -(-z_ref.shape[1] // width)
  return jax.lax.fori_loop(0, parts, part, start).astype(jnp.float32)
