"""SEANet encoder: sound to latents by strided convolutions.

Source: EnCodec, https://arxiv.org/abs/2210.13438, section 3.1; modules/seanet.py of its code.
"""

import flax.linen as nn

from jaxcodec import functional as F
from jaxcodec.layers.chain import Chain
from jaxcodec.layers.recurrent import LSTM, BidirectionalLSTM
from jaxcodec.layers.seanet import ResidualBlock, SEANetConfig


class SEANetEncoder(nn.Module):
  """[B, T, channels] -> ([B, ceil(T / hop_length), dimension], state).

  Attributes:
    config: its shape.
    bidirectional: whether its LSTM reads both ways, which takes whole signals.
  """

  config: SEANetConfig
  bidirectional: bool = False

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    config, width = self.config, self.config.num_filters
    run = Chain(state, final, length)
    x = run(config.conv(width, config.kernel_size, "conv_in"), x)
    for i, stride in enumerate(config.strides):
      for j in range(config.num_residual_layers):
        block = ResidualBlock(config, config.dilation_base**j, name=f"residual_{i}_{j}")
        x = run(block, x)
      width *= 2
      x = run(config.conv(width, 2 * stride, f"down_{i}", stride=stride), F.elu(x))
    if config.num_lstm_layers:
      layers = config.num_lstm_layers
      if self.bidirectional:
        x = run(BidirectionalLSTM(x.shape[-1], layers, skip=True, name="lstm"), x)
      else:
        x = run(LSTM(layers, name="lstm"), x)
    x = run(config.conv(config.dimension, config.last_kernel_size, "conv_out"), F.elu(x))
    return x, run.after
