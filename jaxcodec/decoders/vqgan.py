"""VQGAN's decoder: a grid of latents to pictures."""

import flax.linen as nn

from jaxcodec.layers.vqgan import AttentionBlock, Double, ResidualBlock, VqganConfig, conv, norm


class VqganDecoder(nn.Module):
  """[B, h, w, features] -> [B, h * stride, w * stride, channels]; nothing bounds the output.

  Attributes:
    config: the network.
    channels: of the picture.
  """

  config: VqganConfig
  channels: int

  @nn.compact
  def __call__(self, z):
    config, widths = self.config, self.config.widths
    z = conv(config.latent_width, 1, "project")(z)
    x = conv(widths[-1], 3, "conv_in")(z)
    x = ResidualBlock(widths[-1], config.groups, name="middle_0")(x)
    x = AttentionBlock(config.groups, name="middle_attention")(x)
    x = ResidualBlock(widths[-1], config.groups, name="middle_1")(x)
    for level in reversed(range(len(widths))):
      for block in range(config.num_blocks + 1):
        x = ResidualBlock(widths[level], config.groups, name=f"block_{level}_{block}")(x)
        if level in config.attention_levels:
          x = AttentionBlock(config.groups, name=f"attention_{level}_{block}")(x)
      if level:
        x = Double(name=f"up_{level}")(x)
    return conv(self.channels, 3, "conv_out")(nn.swish(norm(config.groups, "norm_out")(x)))
