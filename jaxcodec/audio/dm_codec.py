"""DM-Codec: speech tokens that know what frozen models of speech and of text know.

The idea: a residual quantizer whose first stage is trained to agree with two teachers, a speech
model for content and a language model, given the text, for context. A linear layer turns the
entries of a stage into a teacher's features, and what is compared is how each feature goes over
time, so a teacher need not be aligned (`training.distillation`). Without teachers it is
SpeechTokenizer's codec: SEANet whose encoder reads both ways, so that a signal is encoded whole
and decoded in chunks of any size.
Source: Ahasan et al., https://arxiv.org/abs/2410.15017; github.com/mubtasimahasan/DM-Codec. Codec:
Zhang et al., https://arxiv.org/abs/2308.16692.
"""

import math

import flax.linen as nn
import jax

from jaxcodec import functional as F
from jaxcodec.audio.sound_codec import SoundCodec
from jaxcodec.bottlenecks import ResidualVQ
from jaxcodec.decoders.seanet import SEANetDecoder
from jaxcodec.encoders.seanet import SEANetEncoder
from jaxcodec.layers.reach import Reach
from jaxcodec.layers.seanet import SEANetConfig


class DmCodec(SoundCodec):
  """A neural sound codec of the SpeechTokenizer family.

  Attributes:
    sample_rate, bitrates, num_codebooks, codebook_size: as in `SoundCodec`.
    net: shape of encoder and decoder.
    teacher_features: of a frame of the teachers; where they are as many as a latent's, entries are
      compared as they are.
  """

  net: SEANetConfig
  teacher_features: int = 768

  @property
  def hop_length(self) -> int:
    return math.prod(self.net.strides)

  @property
  def causal(self) -> bool:
    return False

  @property
  def encoder_streams(self) -> bool:
    return not self.net.num_lstm_layers

  @property
  def signal_width(self) -> int:
    return self.net.num_filters

  @property
  def decoder_reach(self) -> Reach:
    return self.net.decoder_reach

  def setup(self):
    self.encoder = SEANetEncoder(self.net, bidirectional=True)
    self.quantizer = ResidualVQ(self.num_codebooks, self.codebook_size, self.net.dimension)
    self.decoder = SEANetDecoder(self.net)
    if self.teacher_features != self.net.dimension:
      self.transform = nn.Dense(self.teacher_features)

  def __call__(self, x):
    codes = self.encode(x, self.num_codebooks)
    self.taught(codes)
    return self.decode(codes)[:, : x.shape[1]]

  def taught(self, codes, stage: int = 0):
    """What a stage's entries say of a teacher: codes [B, F, Q] -> [B, F, teacher_features]."""
    return self._transformed(F.lookup(codes[..., stage], self.quantizer.codebooks[stage]))

  def learnt(self, z, codes, stage: int = 0):
    """`taught` in training: z [B, F, D], whose codes these are, gets the gradient of the entries.

    At any stage: released code keeps it from all stages but the first.
    """
    books = self.quantizer.codebooks
    entries = [jax.lax.stop_gradient(F.lookup(codes[..., q], books[q])) for q in range(stage + 1)]
    given = z - sum(entries[:-1])
    return self._transformed(given + jax.lax.stop_gradient(entries[-1] - given))

  def _transformed(self, entries):
    same = self.teacher_features == self.net.dimension
    return entries if same else self.transform(entries)
