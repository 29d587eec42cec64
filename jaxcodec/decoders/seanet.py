"""SEANet decoder: latents to sound by transposed convolutions.

Source: EnCodec, https://arxiv.org/abs/2210.13438, section 3.1; modules/seanet.py of its code.
"""

import flax.linen as nn

from jaxcodec import functional as F
from jaxcodec.layers.chain import Chain
from jaxcodec.layers.seanet import ResidualBlock, SEANetConfig


class SEANetDecoder(nn.Module):
  """[B, F, dimension] -> ([B, F * hop_length, channels], state); mirrors `SEANetEncoder`."""

  config: SEANetConfig

  @nn.compact
  def __call__(self, z, state=None, final: bool = True, length=None):
    config = self.config
    run = Chain(state, final, length)
    width = config.num_filters * 2 ** len(config.strides)
    x = run(config.conv(width, config.kernel_size, "conv_in"), z)
    if config.num_lstm_layers:
      x = run(config.lstm("lstm"), x)
    for i, stride in enumerate(reversed(config.strides)):
      width //= 2
      x = run(config.conv_transpose(width, stride, f"up_{i}"), F.elu(x))
      for j in range(config.num_residual_layers):
        block = ResidualBlock(config, config.dilation_base**j, name=f"residual_{i}_{j}")
        x = run(block, x)
    x = run(config.conv(config.channels, config.last_kernel_size, "conv_out"), F.elu(x))
    return x, run.after
