"""The ConvNeXt block in one dimension: a wide depthwise convolution, then each step by itself.

Source: Liu et al., https://arxiv.org/abs/2201.03545; in one dimension Vocos,
https://arxiv.org/abs/2306.00814, vocos/modules.py.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec.layers.chain import Chain
from jaxcodec.layers.conv import DepthwiseConv1d


class ConvNeXtBlock(nn.Module):
  """x + gamma down(gelu(up(norm(conv(x))))): [B, T, C] -> same.

  Attributes:
    hidden: features in between.
    scale: what gamma begins as.
  """

  hidden: int
  scale: float

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    run, width = Chain(state, final, length), x.shape[-1]
    y = run(DepthwiseConv1d(7, causal=False, name="conv"), x)
    y = nn.gelu(nn.Dense(self.hidden, name="up")(step_norm("norm", y)), approximate=False)
    y = nn.Dense(width, name="down")(y)
    return run.add(x, self.param("gamma", nn.initializers.constant(self.scale), (width,)) * y), (
      run.after
    )


def step_norm(name: str, x):
  """Layer norm of each step's features, in float32."""
  norm = nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, name=name)
  return norm(x.astype(jnp.float32)).astype(x.dtype)
