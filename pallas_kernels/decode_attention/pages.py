"""Pages of quantized keys and values.

Shapes: P pages of S tokens, N heads of keys, D features. Keys have a scale for each channel and
group of tokens, values one for each token and group of channels, as in KIVI
(https://arxiv.org/abs/2402.02750, section 3.2): keys have channels that stand out, values have not.
"""

from typing import NamedTuple

import jax

from pallas_kernels.affine_quant import affine_dequantize, affine_quantize, affine_range
from pallas_kernels.affine_quant.pack import pack_bits, run_length, unpack_bits

INTERLEAVE = 8


class Pages(NamedTuple):
  """A cache; its bits are told by its shapes, and may differ between keys and values.

  Attributes:
    k_words, v_words: int32 [P, N, S * bits / 32, D], packed along tokens with interleave 8.
    k_scale, k_offset: [P, N, S / group, D].
    v_scale, v_offset: [P, N, D / group, S]; tokens last, or TPUs would pad each to 512 bytes.
  """

  k_words: jax.Array
  k_scale: jax.Array
  k_offset: jax.Array
  v_words: jax.Array
  v_scale: jax.Array
  v_offset: jax.Array

  @property
  def size(self) -> int:
    """Tokens in a page, S."""
    return self.v_scale.shape[-1]

  @property
  def bits(self) -> tuple[int, int]:
    """Bits of a key's code and of a value's."""
    return tuple(x.shape[-2] * 32 // self.size for x in (self.k_words, self.v_words))  # type: ignore[return-value]


def quantize_pages(
  k: jax.Array,
  v: jax.Array,
  *,
  bits: int | tuple[int, int],
  key_group: int,
  value_group: int,
) -> Pages:
  """Quantizes whole pages.

  Args:
    k, v: `[P, S, N, D]`.
    bits: of keys and values, 1 to 8 each.
    key_group: tokens that share a key channel's scale; divides S.
    value_group: channels that share a value token's scale; divides D.

  Raises:
    ValueError: if shapes differ, groups do not divide, or S codes do not fill whole words: S is a
      multiple of 32 for 8 bits, 64 for 4, 128 for 2, 256 for 3 and for 1.
  """
  if k.ndim != 4 or k.shape != v.shape:
    raise ValueError(f"keys and values must be [P, S, N, D] alike, got {k.shape}, {v.shape}")
  k_bits, v_bits = (bits, bits) if isinstance(bits, int) else bits
  for width in (k_bits, v_bits):
    if k.shape[1] % run_length(width, INTERLEAVE):
      raise ValueError(
        f"pages of {width} bits hold a multiple of {run_length(width, INTERLEAVE)} tokens,"
        f" got {k.shape[1]}"
      )
  k, v = (x.swapaxes(1, 2) for x in (k, v))
  k_words, k_scale, k_offset = _packed(k, (1, 1, key_group, 1), k_bits)
  v_words, v_scale, v_offset = _packed(v, (1, 1, 1, value_group), v_bits)
  turned = (x.swapaxes(2, 3) for x in (v_scale, v_offset))
  return Pages(k_words, k_scale, k_offset, v_words, *turned)


def dequantize_pages(pages: Pages) -> tuple[jax.Array, jax.Array]:
  """float32 keys and values [..., N, S, D] of pages with any leading dimensions."""
  k_bits, v_bits = pages.bits
  k, v = (
    unpack_bits(words, pages.size, bits, axis=-2, interleave=INTERLEAVE)
    for words, bits in ((pages.k_words, k_bits), (pages.v_words, v_bits))
  )
  v_scale, v_offset = (x.swapaxes(-1, -2) for x in (pages.v_scale, pages.v_offset))
  return (
    affine_dequantize(k, pages.k_scale, pages.k_offset),
    affine_dequantize(v, v_scale, v_offset),
  )


def check(pages: Pages) -> None:
  """Raises ValueError, naming the shapes, if the parts do not make pages."""
  k_words, k_scale, k_offset, v_words, v_scale, v_offset = pages
  shapes = {name: x.shape for name, x in pages._asdict().items()}
  if any(x.ndim != 4 or 0 in x.shape for x in pages):
    raise ValueError(f"the parts of pages must have four dimensions and no empty one, got {shapes}")
  page, heads, _, features = k_words.shape
  size = v_scale.shape[3]
  fits = (
    k_scale.shape == k_offset.shape
    and v_scale.shape == v_offset.shape
    and k_scale.shape[:2] == v_scale.shape[:2] == v_words.shape[:2] == (page, heads)
    and k_scale.shape[3] == v_words.shape[3] == features
    and size % k_scale.shape[2] == 0
    and features % v_scale.shape[2] == 0
  )
  whole = fits and all(
    words.shape[2] * 32 % size == 0
    and 1 <= words.shape[2] * 32 // size <= 8
    and size % run_length(words.shape[2] * 32 // size, INTERLEAVE) == 0
    for words in (k_words, v_words)
  )
  if not whole:
    raise ValueError(f"the parts of pages do not fit: {shapes}")
  if any(x.dtype != "int32" for x in (k_words, v_words)):
    raise ValueError(f"words must be int32, got {k_words.dtype} and {v_words.dtype}")


def _packed(x, block, bits):
  scale, offset = affine_range(x, block, bits=bits)
  codes = affine_quantize(x, scale, offset, bits=bits)
  return pack_bits(codes, bits, axis=2, interleave=INTERLEAVE), scale, offset
