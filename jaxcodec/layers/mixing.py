"""Token mixing for pictures: what stands around a place, and how much of it a gate lets through.

Source: MLICv2, https://arxiv.org/abs/2504.19119, names the block; its parts are those of a
MetaFormer, Yu et al., https://arxiv.org/abs/2111.11418, with gates.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec.layers.picture import Conv2d, Depthwise2d, gelu


class TokenMixing(nn.Module):
  """x + mix(norm(x)), then x + feed(norm(x)): [B, H, W, C] -> same.

  `mix` is a 5 x 5 convolution of each channel times a gate; `feed` has gates too.
  """

  @nn.compact
  def __call__(self, x):
    size = x.shape[-1]
    y = nn.LayerNorm(1e-5, use_fast_variance=False, name="norm1")(x)
    seen = Depthwise2d(5, name="around")(Conv2d(size, 1, 1, name="mixed")(y))
    gate = gelu(Conv2d(size, 1, 1, name="gate")(y))
    x = x + Conv2d(size, 1, 1, name="out")(seen * gate)
    y = nn.LayerNorm(1e-5, use_fast_variance=False, name="norm2")(x)
    a, b = jnp.split(Conv2d(4 * size, 1, 1, name="up")(y), 2, axis=-1)
    return x + Conv2d(size, 1, 1, name="down")(a * gelu(Depthwise2d(name="near")(b)))
