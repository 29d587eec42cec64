"""DAC decoder: latents to sound by transposed convolutions with periodic activations.

Source: Kumar et al., https://arxiv.org/abs/2306.06546, section 3.1; dac/model/dac.py of its code.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec.layers.chain import Chain
from jaxcodec.layers.dac import DILATIONS, DacConfig, ResidualUnit, Snake, Upsample, conv


class DacDecoder(nn.Module):
  """[B, F, dimension] -> ([B, F * hop_length - config.missing, 1], state), within (-1, 1)."""

  config: DacConfig

  @nn.compact
  def __call__(self, z, state=None, final: bool = True, length=None):
    config, width = self.config, self.config.decoder_width
    run = Chain(state, final, length)
    x = run(conv(width, 7, "conv_in"), z)
    for i, stride in enumerate(reversed(config.strides)):
      x = run(Upsample(config.decoder_width // 2 ** (i + 1), stride, name=f"up_{i}"), x)
      for j, dilation in enumerate(DILATIONS):
        x = run(ResidualUnit(dilation, name=f"residual_{i}_{j}"), x)
    x = run(conv(1, 7, "conv_out"), Snake(name="snake_out")(x))
    return jnp.tanh(x), run.after
