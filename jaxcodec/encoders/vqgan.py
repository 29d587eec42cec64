"""VQGAN's encoder: pictures to a grid of latents."""

import flax.linen as nn

from jaxcodec.layers.vqgan import AttentionBlock, Halve, ResidualBlock, VqganConfig, conv, norm


class VqganEncoder(nn.Module):
  """[B, H, W, C] -> [B, H / stride, W / stride, features]; both sides are multiples of the stride.

  Attributes:
    config: the network.
    features: of the latents.
  """

  config: VqganConfig
  features: int

  @nn.compact
  def __call__(self, x):
    config, widths = self.config, self.config.widths
    x = conv(config.width, 3, "conv_in")(x)
    for level, width in enumerate(widths):
      for block in range(config.num_blocks):
        x = ResidualBlock(width, config.groups, name=f"block_{level}_{block}")(x)
        if level in config.attention_levels:
          x = AttentionBlock(config.groups, name=f"attention_{level}_{block}")(x)
      if level < len(widths) - 1:
        x = Halve(name=f"down_{level}")(x)
    x = ResidualBlock(widths[-1], config.groups, name="middle_0")(x)
    x = AttentionBlock(config.groups, name="middle_attention")(x)
    x = ResidualBlock(widths[-1], config.groups, name="middle_1")(x)
    x = conv(config.latent_width, 3, "conv_out")(nn.swish(norm(config.groups, "norm_out")(x)))
    return conv(self.features, 1, "project")(x)
