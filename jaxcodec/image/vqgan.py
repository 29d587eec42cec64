"""VQGAN: pictures as a grid of codes from one codebook, decoded sharply thanks to an adversary.

Source: Esser et al., https://arxiv.org/abs/2012.09841, and taming-transformers' configs. What it
learns by (`training`): pixels, a perceptual loss, and a discriminator of patches whose weight is
the ratio of gradients at the decoder's last kernel.
"""

import flax.linen as nn

from jaxcodec.bottlenecks import VQ
from jaxcodec.decoders.vqgan import VqganDecoder
from jaxcodec.encoders.vqgan import VqganEncoder
from jaxcodec.layers.vqgan import VqganConfig


class Vqgan(nn.Module):
  """[B, H, W, channels] in [-1, 1] <-> int32 [B, H / stride, W / stride, 1].

  Attributes:
    net: both networks.
    codebook_size, codebook_features: entries K and their size D.
    channels: of the picture.
  """

  net: VqganConfig
  codebook_size: int
  codebook_features: int
  channels: int = 3

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (self.codebook_size,)

  @property
  def smallest(self) -> tuple[int, int, int]:
    """Shape of the smallest picture."""
    return self.net.stride, self.net.stride, self.channels

  def setup(self):
    self.encoder = VqganEncoder(self.net, self.codebook_features)
    self.quantizer = VQ(self.codebook_size, self.codebook_features)
    self.decoder = VqganDecoder(self.net, self.channels)

  def __call__(self, x):
    """[B, H, W, C] -> [B, H, W, C]; creates every parameter."""
    return self.decode(self.encode(x))

  def encode(self, x):
    """Codes of pictures.

    Raises:
      ValueError: if a side is no multiple of the stride.
    """
    stride = self.net.stride
    if x.ndim != 4 or x.shape[1] % stride or x.shape[2] % stride or not x.size:
      raise ValueError(f"pictures [B, H, W, C] have sides of multiples of {stride}, not {x.shape}")
    return self.quantizer.encode(self.latents(x))

  def decode(self, codes):
    return self.signal(self.quantizer.decode(codes))

  def latents(self, x):
    """What the quantizer is given, [B, H / stride, W / stride, D]."""
    return self.encoder(x)

  def signal(self, z):
    """The picture of latents."""
    return self.decoder(z)
