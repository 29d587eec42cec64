"""DAC encoder: sound to latents by strided convolutions with periodic activations.

Source: Kumar et al., https://arxiv.org/abs/2306.06546, section 3.1; dac/model/dac.py of its code.
"""

import flax.linen as nn

from jaxcodec.layers.chain import Chain
from jaxcodec.layers.dac import DILATIONS, DacConfig, ResidualUnit, Snake, conv


class DacEncoder(nn.Module):
  """[B, F * hop_length, 1] -> ([B, F, dimension], state)."""

  config: DacConfig

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    config, width = self.config, self.config.encoder_width
    run = Chain(state, final, length)
    x = run(conv(width, 7, "conv_in"), x)
    for i, stride in enumerate(config.strides):
      for j, dilation in enumerate(DILATIONS):
        x = run(ResidualUnit(dilation, name=f"residual_{i}_{j}"), x)
      width *= 2
      x = Snake(name=f"snake_{i}")(x)
      x = run(conv(width, 2 * stride, f"down_{i}", stride=stride), x)
    x = run(conv(config.dimension, 3, "conv_out"), Snake(name="snake_out")(x))
    return x, run.after
