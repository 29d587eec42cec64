"""Language-Codec: speech as codes of which the first ones say little each.

The idea: the first three codebooks code a third of the latent's channels each, side by side, and
the others what all three leave over. So no code holds most of the signal, and a language model can
foretell the first ones from text. The decoder is Vocos.
Source: Ji et al., https://arxiv.org/abs/2402.12208; github.com/jishengpeng/Languagecodec. Its
method `encode` is a plain residual quantizer, which its weights were not trained for; codes here
are those of its forward pass.
"""

import math

from jaxcodec.audio.sound_codec import SoundCodec
from jaxcodec.bottlenecks import ResidualVQ
from jaxcodec.decoders.vocos import VocosConfig, VocosDecoder
from jaxcodec.encoders.seanet import SEANetEncoder
from jaxcodec.layers.reach import Reach
from jaxcodec.layers.seanet import SEANetConfig


class LanguageCodec(SoundCodec):
  """A neural sound codec of the Language-Codec family.

  Attributes:
    sample_rate, bitrates, num_codebooks, codebook_size: as in `SoundCodec`; no rate pays for fewer
      codebooks than there are bands.
    net: shape of the encoder.
    vocos: shape of the decoder.
    num_bands: of channels, one a first codebook; 0 makes it a plain residual quantizer.
  """

  net: SEANetConfig
  vocos: VocosConfig
  num_bands: int = 3

  @property
  def hop_length(self) -> int:
    return math.prod(self.net.strides)

  @property
  def fewest_codebooks(self) -> int:
    # With fewer there are channels of which nothing is known.
    return max(1, self.num_bands)

  @property
  def causal(self) -> bool:
    return False

  @property
  def signal_width(self) -> int:
    # A frame's waves and its features, over the samples of a hop.
    return -(-(self.vocos.window_length + self.vocos.hidden) // self.hop_length)

  @property
  def decoder_reach(self) -> Reach:
    return self.vocos.reach(self.hop_length)

  def setup(self):
    self.encoder = SEANetEncoder(self.net)
    self.quantizer = ResidualVQ(
      self.num_codebooks, self.codebook_size, self.net.dimension, num_bands=self.num_bands
    )
    self.decoder = VocosDecoder(self.vocos, self.hop_length)
