"""Attention that comes with jax, compiled for the same TPUs at the size of ours in `low_bit`.

jax's `splash_attention` and `paged_attention` state neither FLOPs nor bytes, so there is nothing to
compare without a TPU.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import flash_attention

from kernel_cases.case import TpuCase

# As large as our blocks; the default is 128.
BLOCK = 512
STEPS, HEADS, FEATURES = 4096, 16, 128


def flash(q, k, v):
  """[B, H, T, D]; keys and values have as many heads as queries."""
  names = ("q", "k_major", "k", "q_major_dkv", "k_major_dkv", "k_dkv", "q_dkv")
  names += ("k_major_dq", "k_dq", "q_dq")
  sizes = {f"block_{name}": BLOCK for name in names}
  blocks = flash_attention.BlockSizes(**sizes, block_b=1)
  attend = flash_attention.flash_attention
  return attend(q, k, v, causal=True, sm_scale=FEATURES**-0.5, block_sizes=blocks)


def gradient(attend):
  return jax.grad(lambda q, k, v: attend(q, k, v).astype(jnp.float32).sum(), argnums=(0, 1, 2))


def host_cases() -> list:
  return []


def tpu_cases() -> list[TpuCase]:
  x = jax.ShapeDtypeStruct((1, HEADS, STEPS, FEATURES), jnp.bfloat16)
  size = f"1 x {STEPS} x {HEADS}/{HEADS} x {FEATURES}, causal, jax's flash"
  return [
    TpuCase("attention", size, flash, (x, x, x), "bfloat16", 1),
    TpuCase("attention_gradient", size, gradient(flash), (x, x, x), "bfloat16", 1),
  ]
