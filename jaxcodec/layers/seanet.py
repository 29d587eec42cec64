"""What the SEANet encoder and decoder share: their configuration and their residual block."""

import dataclasses

import flax.linen as nn

from jaxcodec import functional as F
from jaxcodec.layers import reach
from jaxcodec.layers.chain import Chain
from jaxcodec.layers.conv import Conv1d, ConvTranspose1d, Norm
from jaxcodec.layers.recurrent import LSTM


@dataclasses.dataclass(frozen=True, kw_only=True)
class SEANetConfig:
  """Shape of a SEANet encoder and of the decoder that mirrors it.

  Attributes:
    channels: of the signal.
    num_filters: channels at the signal's rate; they double with every stride.
    strides: of the encoder, first to last; their product is the hop length.
    dimension: features of a latent.
    kernel_size, last_kernel_size, residual_kernel_size: taps.
    num_residual_layers: residual blocks per stride, with dilations dilation_base ** 0, 1, ...
    compress: a residual block's inner width is its width divided by this.
    num_lstm_layers: 0 for none.
    causal, pad_mode, norm: see `Conv1d`.
    conv_shortcut: whether a residual block's skip is a 1x1 convolution, or the identity.
    steady: whether codes are, on a CPU, the same to the last bit however a signal is cut or batched
      (`SoundCodec.encoded`); of causal networks.
  """

  channels: int = 1
  num_filters: int = 32
  strides: tuple[int, ...] = (2, 4, 5, 8)
  dimension: int = 128
  kernel_size: int = 7
  last_kernel_size: int = 7
  residual_kernel_size: int = 3
  num_residual_layers: int = 1
  dilation_base: int = 2
  compress: int = 2
  num_lstm_layers: int = 2
  causal: bool = True
  pad_mode: F.PadMode = "reflect"
  norm: Norm = None
  conv_shortcut: bool = True
  steady: bool = dataclasses.field(default=False, metadata={"identity": False})

  def conv(self, features: int, kernel_size: int, name: str, **window: int) -> Conv1d:
    """A convolution with this configuration's padding and norm."""
    return Conv1d(
      features,
      kernel_size,
      causal=self.causal,
      pad_mode=self.pad_mode,
      norm=self.norm,
      name=name,
      **window,
    )

  def conv_transpose(self, features: int, stride: int, name: str) -> ConvTranspose1d:
    """An upsampling by `stride` with this configuration's norm."""
    return ConvTranspose1d(features, 2 * stride, stride, self.causal, self.norm, name=name)

  def lstm(self, name: str) -> LSTM:
    return LSTM(self.num_lstm_layers, name=name)

  @property
  def decoder_reach(self) -> reach.Reach:
    """Latents that a sample of the decoder depends on."""
    found = reach.conv(reach.Reach(), self.last_kernel_size, causal=self.causal)
    for stride in self.strides:
      for i in range(self.num_residual_layers):
        dilation = self.dilation_base**i
        found = reach.conv(found, self.residual_kernel_size, dilation, causal=self.causal)
      found = reach.conv_transpose(found, 2 * stride, stride, causal=self.causal)
    found = reach.recurrence(found) if self.num_lstm_layers else found
    return reach.conv(found, self.kernel_size, causal=self.causal)


class ResidualBlock(nn.Module):
  """x -> shortcut(x) + conv1(elu(conv3(elu(x)))), the inner convolution dilated."""

  config: SEANetConfig
  dilation: int

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    config, width = self.config, x.shape[-1]
    run = Chain(state, final, length)
    inner = config.conv(
      width // config.compress, config.residual_kernel_size, "conv_0", dilation=self.dilation
    )
    y = run(inner, F.elu(x))
    y = run(config.conv(width, 1, "conv_1"), F.elu(y))
    if config.conv_shortcut:
      x = run(config.conv(width, 1, "shortcut"), x)
    return (x + y if config.causal else run.add(x, y)), run.after
