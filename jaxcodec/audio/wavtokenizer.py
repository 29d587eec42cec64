"""WavTokenizer: sound as one code a frame, 40 or 75 times a second.

The idea: one large codebook that stays in use, because it begins by k-means, and a decoder that
makes up for it: attention over the whole signal, then Vocos. So a signal is encoded in chunks of
any size, and its codes are decoded whole.
Source: Ji et al., https://arxiv.org/abs/2408.16532; github.com/jishengpeng/WavTokenizer. The
dropout of a tenth within its residual blocks is left out.
"""

import math

import flax.linen as nn

import pallas_kernels as kernels
from jaxcodec.audio.sound_codec import SoundCodec
from jaxcodec.bottlenecks import ResidualVQ
from jaxcodec.decoders.vocos import VocosConfig, VocosDecoder
from jaxcodec.encoders.seanet import SEANetEncoder
from jaxcodec.layers.chain import Chain
from jaxcodec.layers.conv import Conv1d
from jaxcodec.layers.norms import TimeGroupNorm
from jaxcodec.layers.reach import Reach
from jaxcodec.layers.seanet import SEANetConfig
from pallas_kernels.attention import Lengths


class WavTokenizer(SoundCodec):
  """A neural sound codec of the WavTokenizer family.

  Attributes:
    sample_rate, bitrates, codebook_size: as in `SoundCodec`.
    num_codebooks: 1 in the source.
    net: shape of the encoder.
    vocos: shape of the decoder.
    attention: whether the decoder has its attention network.
    num_groups: of channels, in that network's norms.
  """

  net: SEANetConfig
  vocos: VocosConfig
  attention: bool = True
  num_groups: int = 32

  @property
  def hop_length(self) -> int:
    return math.prod(self.net.strides)

  @property
  def causal(self) -> bool:
    return False

  @property
  def decoder_streams(self) -> bool:
    return not self.attention

  @property
  def signal_width(self) -> int:
    # A frame's waves and its features, over the samples of a hop.
    return -(-(self.vocos.window_length + self.vocos.hidden) // self.hop_length)

  @property
  def decoder_reach(self) -> Reach:
    """Of a decoder without attention, which sees all frames."""
    return self.vocos.reach(self.hop_length)

  def setup(self):
    self.encoder = SEANetEncoder(self.net)
    self.quantizer = ResidualVQ(self.num_codebooks, self.codebook_size, self.net.dimension)
    mixer = AttentionNetwork(self.num_groups, parent=None) if self.attention else None
    self.decoder = VocosDecoder(self.vocos, self.hop_length, mixer)


class AttentionNetwork(nn.Module):
  """Attention between residual blocks, over all steps of a row: [B, T, C] -> same.

  Attributes:
    num_groups: of channels, in its norms.
  """

  num_groups: int

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    run = Chain(state, final, length)
    for i in range(4):
      if i == 2:
        x = run(WholeAttention(self.num_groups, name="attention"), x)
      x = run(NormedBlock(self.num_groups, name=f"residual_{i}"), x)
    return run(TimeGroupNorm(self.num_groups, name="norm_out"), x), run.after


class NormedBlock(nn.Module):
  """x + conv(silu(norm(conv(silu(norm(x)))))), kernels of three steps."""

  num_groups: int

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    run, y = Chain(state, final, length), x
    for i in range(2):
      y = nn.silu(run(TimeGroupNorm(self.num_groups, name=f"norm_{i}"), y))
      y = run(Conv1d(x.shape[-1], 3, causal=False, name=f"conv_{i}"), y)
    return x + y, run.after


class WholeAttention(nn.Module):
  """x + attention(norm(x)), one head, no positions, every step to all that the row has."""

  num_groups: int

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    run, width = Chain(state, final, length), x.shape[-1]
    y = run(TimeGroupNorm(self.num_groups, name="norm"), x)
    q, k, v = (nn.Dense(width, name=name)(y)[:, :, None] for name in ("query", "key", "value"))
    mask = None if length is None else Lengths(length.astype("int32"))
    y = kernels.attention(q, k, v, mask=mask)[:, :, 0]
    return x + nn.Dense(width, name="out")(y), run.after
