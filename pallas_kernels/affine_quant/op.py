"""Affine quantization: x is near scale * code + offset, with one scale for a block of entries.

The offset is a float, as in KIVI; an integer zero point z is the offset -scale * z. Without an
offset codes are signed and zero is exact. A scale has the rank of the data, and each dimension of
the data is a multiple of the scale's: a tensor, a channel, a group, a token are all such blocks.

Numerics: float32 whatever the inputs are; rounding is half to even.
"""

import jax
import jax.numpy as jnp


def limits(bits: int, signed: bool) -> tuple[int, int]:
  """The lowest and highest code of `bits` bits.

  Raises:
    ValueError: if `bits` is not between 2 and 8, or, of unsigned codes, not between 1 and 8.
  """
  lowest = 2 if signed else 1
  if not lowest <= bits <= 8:
    raise ValueError(f"bits must be in [{lowest}, 8], got {bits}")
  return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def split(
  x: jax.Array, scale: jax.Array, offset: jax.Array | None = None
) -> tuple[jax.Array, tuple[int, ...]]:
  """`x` with its dimensions split in blocks and entries, and the shape of a scale against it.

  A dimension with one block, or one entry a block, stays as it is: XLA on TPU fuses that.
  """
  fits = x.ndim == scale.ndim and all(
    b > 0 and n % b == 0 for n, b in zip(x.shape, scale.shape, strict=True)
  )
  if not fits:
    raise ValueError(f"data {x.shape} cannot be split in blocks with scales {scale.shape}")
  if offset is not None and offset.shape != scale.shape:
    raise ValueError(f"offset {offset.shape} has not the shape {scale.shape} of the scale")
  shape, against = [], []
  for n, b in zip(x.shape, scale.shape, strict=True):
    parted = 1 < b != n
    shape += [b, n // b] if parted else [n]
    against += [b, 1] if parted else [b]
  return x.reshape(shape), tuple(against)


def gathered(x: jax.Array, counts: tuple[int, ...]) -> tuple[jax.Array, tuple[int, ...]]:
  """float32 `x` with a dimension for blocks and one for entries of each, and the entries' axes."""
  shape = [size for n, b in zip(x.shape, counts, strict=True) for size in (b, n // b)]
  return x.astype(jnp.float32).reshape(shape), tuple(range(1, 2 * x.ndim, 2))


def affine_range(
  x: jax.Array, block: tuple[int | None, ...], *, bits: int, symmetric: bool = False
) -> tuple[jax.Array, jax.Array | None]:
  """Scale and offset that let the codes of each block just reach its extremes.

  Args:
    x: any float type.
    block: entries that share a scale, along each dimension; None for all of a dimension. For
      weights [K, N]: (None, None) a tensor, (None, 1) a channel, (128, 1) a group, (1, None) a
      token.
    bits: 2 to 8; 1, too, of codes with an offset.
    symmetric: scale absmax / (2^(bits-1) - 1) and no offset, else (max - min) / (2^bits - 1) and
      the offset min. A block that is constant, or zero where symmetric, has the scale 1.

  Returns:
    scale and offset, float32 of the rank of `x`; the offset is None where symmetric.

  Raises:
    ValueError: if the blocks do not divide `x`, or it is empty.
  """
  _, highest = limits(bits, symmetric)
  if len(block) != x.ndim:
    raise ValueError(f"block {block} must have a number for each dimension of {x.shape}")
  sizes = [n if size is None else size for n, size in zip(x.shape, block, strict=True)]
  if x.size == 0 or any(size < 1 or n % size for n, size in zip(x.shape, sizes, strict=True)):
    raise ValueError(f"blocks of {block} do not divide data of shape {x.shape}")
  counts = tuple(n // size for n, size in zip(x.shape, sizes, strict=True))
  parts, axes = gathered(x, counts)
  if symmetric:
    offset, width = None, jnp.abs(parts).max(axes)
  else:
    offset = parts.min(axes)
    width = parts.max(axes) - offset
  scale = width / highest
  return jnp.where(scale == 0, 1.0, scale), offset


def affine_quantize(
  x: jax.Array, scale: jax.Array, offset: jax.Array | None = None, *, bits: int
) -> jax.Array:
  """Codes clip(round((x - offset) / scale)): uint8 with an offset, int8 without; no gradient.

  Raises:
    ValueError: if the scale's dimensions do not divide those of `x`, or the offset's differ.
  """
  x, scale, offset = jax.lax.stop_gradient((x, scale, offset))
  low, high = limits(bits, signed=offset is None)
  parts, shape = split(x.astype(jnp.float32), scale, offset)
  if offset is not None:
    parts = parts - offset.reshape(shape)
  codes = jnp.clip(jnp.round(parts / scale.reshape(shape)), low, high)
  return codes.astype(jnp.int8 if offset is None else jnp.uint8).reshape(x.shape)


def affine_dequantize(
  codes: jax.Array, scale: jax.Array, offset: jax.Array | None = None
) -> jax.Array:
  """float32 scale * codes + offset, with a gradient to scale and offset.

  Raises:
    ValueError: if the scale's dimensions do not divide those of `codes`, or the offset's differ.
  """
  parts, shape = split(codes, scale, offset)
  x = parts.astype(jnp.float32) * scale.reshape(shape)
  if offset is not None:
    x = x + offset.reshape(shape)
  return x.reshape(codes.shape)
