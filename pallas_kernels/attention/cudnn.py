"""The calls of attention that cuDNN's kernel takes on a GPU, through `jax.nn`."""

import jax
import jax.numpy as jnp

from pallas_kernels.attention.masks import Causal, Mask
from pallas_kernels.attention.reference import Rule
from pallas_kernels.dispatch import has_hopper


def takes(q, k, bias, mask: Mask | None, rule: Rule) -> bool:
  """Whether it runs here and gives the same: no query may be without a key."""
  plain = mask is None or (
    isinstance(mask, Causal) and mask.offset == 0 and q.shape[1] == k.shape[1]
  )
  return (
    has_hopper()
    and plain
    and q.dtype in (jnp.bfloat16, jnp.float16)
    and q.shape[1] % 2 == k.shape[1] % 2 == 0
    and q.shape[3] % 8 == 0
    and q.shape[3] <= 128
    and bias is None
    and rule.soft_cap is None
  )


def attention(q, k, v, *, mask: Mask | None, rule: Rule):
  return jax.nn.dot_product_attention(
    q, k, v, scale=rule.scale, is_causal=mask is not None, implementation="cudnn"
  )
