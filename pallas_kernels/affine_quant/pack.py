"""Codes of 1 to 8 bits in 32-bit words.

A run of codes fills the words one field after the other, from the low bits up. With `interleave`
R, R neighbours go to R neighbouring words: code i is in word i % R of its run, field i // R. One is
the usual order; kernels use 8, the height of a TPU register, so that unpacking moves nothing
between rows. Three bits are a run of 2-bit words and a run of 1-bit words: 32 codes in 3 words,
with no bit lost. Five to seven bits are likewise made of powers of two.
"""

import jax
import jax.numpy as jnp

from pallas_kernels import checks


def planes(bits: int) -> tuple[int, ...]:
  """The powers of two that add up to `bits`, largest first: the widths of a code's parts."""
  if not 1 <= bits <= 8:
    raise ValueError(f"bits must be in [1, 8], got {bits}")
  return tuple(width for width in (8, 4, 2, 1) if bits & width)


def run_length(bits: int, interleave: int = 1) -> int:
  """Codes that fill whole words: the length of packed data is a multiple of it."""
  return 32 // planes(bits)[-1] * interleave


def num_words(length: int, bits: int, interleave: int = 1) -> int:
  """Words that hold `length` codes, the fill at their end included."""
  run = run_length(bits, interleave)
  return -(-length // run) * run * bits // 32


def pack_bits(codes: jax.Array, bits: int, *, axis: int = -1, interleave: int = 1) -> jax.Array:
  """Packs the low `bits` bits of integers along `axis`; zeros fill the last words.

  Returns:
    int32, of the shape of `codes` but for `axis`, which has `num_words(length, bits, interleave)`.

  Raises:
    ValueError: if `bits` is not in [1, 8], or `codes` are no integers.
  """
  checks.integers(codes=codes)
  run = run_length(bits, interleave)
  codes = jnp.moveaxis(codes, axis, 0)
  length, rest = codes.shape[0], codes.shape[1:]
  codes = jnp.pad(codes.astype(jnp.int32), [(0, -length % run), *[(0, 0)] * len(rest)])
  return jnp.moveaxis(words_of(codes, bits, interleave), 0, axis)


def unpack_bits(
  words: jax.Array,
  length: int,
  bits: int,
  *,
  axis: int = -1,
  interleave: int = 1,
  signed: bool = False,
) -> jax.Array:
  """The first `length` codes of `pack_bits`, int32, in [-2^(bits-1), 2^(bits-1)) if `signed`.

  Raises:
    ValueError: if the words are no int32, or not as many as `length` codes fill.
  """
  if words.dtype != jnp.int32 or words.ndim == 0:
    raise ValueError(f"words must be int32 along an axis, got {words.dtype} {words.shape}")
  if words.shape[axis] != num_words(length, bits, interleave):
    raise ValueError(
      f"{length} codes of {bits} bits fill {num_words(length, bits, interleave)} words,"
      f" got {words.shape[axis]} of {words.shape}"
    )
  words = jnp.moveaxis(words, axis, 0)
  codes = fields_of(words, bits, interleave)[:length]
  if signed:
    codes = codes << 32 - bits >> 32 - bits
  return jnp.moveaxis(codes, 0, axis)


def words_of(codes: jax.Array, bits: int, interleave: int) -> jax.Array:
  """Words of whole runs of int32 codes along the first axis; it lowers inside a kernel, too."""
  run, rest = run_length(bits, interleave), codes.shape[1:]
  count = codes.shape[0] // run
  parts: list[jax.Array] = []
  shift = 0
  for width in reversed(planes(bits)):
    fields = 32 // width
    part = codes >> shift & ((1 << width) - 1)
    part = part.reshape(count * run // (fields * interleave), fields, interleave, *rest)
    # The fields do not overlap, so that their sum is their union.
    word = (part << shifts(fields, width, part.ndim)).sum(1)
    parts.insert(0, word.reshape(count, run // fields, *rest))
    shift += width
  return jnp.concatenate(parts, axis=1).reshape(count * run * bits // 32, *rest)


def shifts(fields: int, width: int, ndim: int) -> jax.Array:
  """Where each field begins, int32 [1, fields, 1, ...]."""
  shape = (1, fields, *[1] * (ndim - 2))
  return jax.lax.broadcasted_iota(jnp.int32, shape, 1) * width


def fields_of(words: jax.Array, bits: int, interleave: int) -> jax.Array:
  """Unsigned codes of whole runs of words along the first axis; it lowers inside a kernel, too."""
  run, rest = run_length(bits, interleave), words.shape[1:]
  count = words.shape[0] // (run * bits // 32)
  runs = words.reshape(count, run * bits // 32, *rest)
  codes, start, shift = jnp.int32(0), 0, bits
  for width in planes(bits):
    size, fields = run * width // 32, 32 // width
    part = runs[:, start : start + size].reshape(count * size // interleave, interleave, *rest)
    mask = (1 << width) - 1
    # Arithmetic shifts do: the mask drops the copies of the sign.
    part = part[:, None] >> shifts(fields, width, part.ndim + 1) & mask
    part = part.reshape(count * run, *rest)
    start, shift = start + size, shift - width
    codes = codes | part << shift
  return codes
