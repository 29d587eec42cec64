"""The low-bit and attention kernels at real sizes, compiled for four TPU generations."""

import functools

import jax
import jax.numpy as jnp
import pytest
import tpu_topologies as topologies

from pallas_kernels import (
  Alibi,
  Causal,
  Chunked,
  Lengths,
  Segments,
  attention,
  decode_attention,
  dequantize_words,
  quant_matmul,
  quantize_pages,
  quantize_words,
  ternary_matmul,
)

shape = jax.ShapeDtypeStruct
everywhere = pytest.mark.parametrize("generation", topologies.GENERATIONS)


@everywhere
def test_attention_and_its_gradient(generation):
  q, k = (shape((1, 4096, heads, 128), jnp.bfloat16) for heads in (16, 4))
  mask, slopes, soft_cap = Causal(), None, None
  # All that a kernel can hold at once takes Mosaic longer: where kernels get the least VMEM, and
  # where they take the most.
  if generation in ("v5e", "tpu7x"):
    ids = shape((1, 4096), jnp.int32)
    mask = Chunked(160, 2) & Lengths(shape((1,), jnp.int32)) | Segments(ids, ids)
    slopes, soft_cap = shape((16,), jnp.float32), 50.0

  def loss(q, k, v, mask, slopes):
    bias = None if slopes is None else Alibi(slopes)
    y = attention(q, k, v, mask=mask, bias=bias, soft_cap=soft_cap)
    return y.astype(jnp.float32).sum()

  grad = jax.grad(loss, argnums=(0, 1, 2))
  compiled = topologies.compile_for(generation, grad, q, k, k, mask, slopes)
  assert len(topologies.kernels(compiled)) == 3
  # No matrix of scores: one in bfloat16 would take 512 MB.
  assert compiled.memory_analysis().temp_size_in_bytes < 128e6


@everywhere
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_decode_attention(generation, bits):
  make = functools.partial(quantize_pages, bits=bits, key_group=64, value_group=64)
  page = shape((512, 256, 8, 128), jnp.bfloat16)
  pages = jax.eval_shape(make, page, page)
  args = (
    shape((16, 32, 128), jnp.bfloat16),
    pages,
    *(shape(s, jnp.int32) for s in ((16, 32), (16,))),
  )
  compiled = topologies.compile_for(generation, decode_attention, *args)
  assert len(topologies.kernels(compiled)) == 1
  # Neither floats nor unpacked codes: the pages have 134 million of them.
  assert compiled.memory_analysis().temp_size_in_bytes < 10e6


@everywhere
@pytest.mark.parametrize(("bits", "rows"), [(8, 1), (4, 1), (4, 4096), (2, 16)])
def test_quant_matmul(generation, bits, rows):
  f = functools.partial(quant_matmul, bits=bits)
  scale = shape((8192 // 128, 4096), jnp.float32)
  words = shape((8192 * bits // 32, 4096), jnp.int32)
  compiled = topologies.compile_for(
    generation, f, shape((rows, 8192), jnp.bfloat16), words, scale, scale
  )
  assert len(topologies.kernels(compiled)) == 1
  # No weights as floats: 67 MB in bfloat16. The product is float32 first, and scales may be moved.
  assert compiled.memory_analysis().temp_size_in_bytes < 4e6 + rows * 4096 * 4


@everywhere
def test_ternary_matmul(generation):
  args = shape((16, 4096), jnp.bfloat16), shape((256, 4096), jnp.int32), shape((1, 1), jnp.float32)
  compiled = topologies.compile_for(generation, ternary_matmul, *args)
  assert len(topologies.kernels(compiled)) == 1


@everywhere
@pytest.mark.parametrize("bits", [4, 3, 2])
def test_packing_and_unpacking_move_each_byte_once(generation, bits):
  length, columns = 4096, 4096
  side = shape((length // 128, columns), jnp.float32)
  x = shape((length, columns), jnp.bfloat16)
  words = shape((length * bits // 32, columns), jnp.int32)
  pack = functools.partial(quantize_words, bits=bits)
  unpack = functools.partial(dequantize_words, length=length, bits=bits, dtype=jnp.bfloat16)
  for f, array in ((pack, x), (unpack, words)):
    compiled = topologies.compile_for(generation, f, array, side, side)
    assert len(topologies.kernels(compiled)) == 1
    assert compiled.memory_analysis().temp_size_in_bytes < 2e6
