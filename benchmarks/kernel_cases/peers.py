"""Attention that comes with jax, compiled for the same TPUs at the sizes of ours in `attention`.

jax's `splash_attention` and `paged_attention` state neither FLOPs nor bytes: both are counted by
hand then, as ours state them, each array moved once and the mask hiding nothing.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import flash_attention, paged_attention, splash_attention
from jax.experimental.pallas.ops.tpu.paged_attention.quantization_utils import QuantizedTensor

from kernel_cases.case import TpuCase

# As large as our blocks; the default is 128.
BLOCK = 512
STEPS, HEADS, KEY_HEADS, FEATURES = 4096, 16, 4, 128
# Rows, tokens of each, tokens of a page, query heads, key heads; pages that a step takes.
ROWS, TOKENS, PAGE, QUERIES, KEYS, PAGES = 16, 8192, 256, 32, 8, 4


def flash(q, k, v):
  """[B, H, T, D]; keys and values have as many heads as queries."""
  names = ("q", "k_major", "k", "q_major_dkv", "k_major_dkv", "k_dkv", "q_dkv")
  names += ("k_major_dq", "k_dq", "q_dq")
  sizes = {f"block_{name}": BLOCK for name in names}
  blocks = flash_attention.BlockSizes(**sizes, block_b=1)
  attend = flash_attention.flash_attention
  return attend(q, k, v, causal=True, sm_scale=FEATURES**-0.5, block_sizes=blocks)


def splash(q, k, v):
  """q [B, H/G, G, T, D], keys and values [B, H/G, T, D]."""
  names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
  sizes = splash_attention.BlockSizes(**{f"block_{name}": BLOCK for name in names})
  one = splash_attention.CausalMask((STEPS, STEPS))
  mask = splash_attention.MultiHeadMask([one] * q.shape[2])
  attend = splash_attention.make_splash_mqa_single_device(mask, block_sizes=sizes)
  return jax.vmap(jax.vmap(attend))(q * FEATURES**-0.5, k, v)


def paged(q, k, v, lengths, table):
  attend = paged_attention.paged_attention
  return attend(q * FEATURES**-0.5, k, v, lengths, table, pages_per_compute_block=PAGES)


def gradient(attend):
  return jax.grad(lambda q, k, v: attend(q, k, v).astype(jnp.float32).sum(), argnums=(0, 1, 2))


def host_cases() -> list:
  return []


def tpu_cases() -> list[TpuCase]:
  shape, half = jax.ShapeDtypeStruct, jnp.bfloat16
  x = shape((1, HEADS, STEPS, FEATURES), half)
  size = f"1 x {STEPS} x {HEADS}/{HEADS} x {FEATURES}, causal, jax's flash"
  cases = [
    TpuCase("attention", size, flash, (x, x, x), "bfloat16", 1),
    TpuCase("attention_gradient", size, gradient(flash), (x, x, x), "bfloat16", 1),
  ]
  k = shape((1, KEY_HEADS, STEPS, FEATURES), half)
  q = k.update(shape=(1, KEY_HEADS, HEADS // KEY_HEADS, STEPS, FEATURES))
  size = f"1 x {STEPS} x {HEADS}/{KEY_HEADS} x {FEATURES}, causal, jax's splash"
  flops = 4.0 * HEADS * STEPS**2 * FEATURES
  moved = 4.0 * STEPS * (HEADS + KEY_HEADS) * FEATURES
  for op, function, factor, arrays in (
    ("attention", splash, 1, 1),
    # Nine products and three readings, as ours.
    ("attention_gradient", gradient(splash), 4.5, 3),
  ):
    counted = factor * flops, arrays * moved
    cases.append(TpuCase(op, size, function, (q, k, k), "bfloat16", 1, counted))
  q, table = shape((ROWS, QUERIES, FEATURES), half), shape((ROWS, TOKENS // PAGE), jnp.int32)
  number = ROWS * TOKENS // PAGE
  pages = shape((KEYS, number, PAGE, FEATURES), half)
  eight = QuantizedTensor(pages.update(dtype=jnp.int8), shape((KEYS, number, PAGE, 1), jnp.float32))
  flops = 4.0 * ROWS * TOKENS * QUERIES * FEATURES
  for name, cache in (("8 bits", eight), ("bfloat16", pages)):
    moved = 2.0 * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache))
    size = f"{ROWS} x {TOKENS} x {QUERIES}/{KEYS} x {FEATURES}, {name}, jax's paged"
    given = q, cache, cache, shape((ROWS,), jnp.int32), table
    cases.append(TpuCase("decode_attention", size, paged, given, "bfloat16", 1, (flops, moved)))
  return cases
