"""What the DAC encoder and decoder share: their configuration and the layers around a Snake."""

import dataclasses

import flax.linen as nn

from jaxcodec import functional as F
from jaxcodec.layers import reach
from jaxcodec.layers.chain import Chain
from jaxcodec.layers.conv import Conv1d, ConvTranspose1d

# Of a stride's residual units.
DILATIONS = (1, 3, 9)
# PyTorch's defaults. The authors draw from N(0, 0.02), but what they draw is the product of a
# weight norm, which the next call makes anew of parts that have the defaults. Were a unit's branch
# as large as its input, as with LeCun's, the decoder's tanh would be full from the start.
KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
TRANSPOSED_INIT = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DacConfig:
  """Shape of a DAC encoder and of its decoder.

  Attributes:
    encoder_width: channels at the signal's rate; they double with every stride.
    decoder_width: channels at the latents' rate; they halve with every stride.
    strides: of the encoder, first to last, each 2 or more; their product is the hop length.
    dimension: features of a latent.
  """

  encoder_width: int = 64
  decoder_width: int = 1536
  strides: tuple[int, ...] = (2, 4, 8, 8)
  dimension: int = 1024

  @property
  def missing(self) -> int:
    """Samples by which the decoder's output is short of its frames; see `Upsample`."""
    lost = 0
    for stride in reversed(self.strides):
      lost = lost * stride + stride % 2
    return lost

  @property
  def decoder_reach(self) -> reach.Reach:
    """Latents that a sample of the decoder depends on."""
    found = reach.conv(reach.Reach(), 7, causal=False)
    for stride in self.strides:
      for dilation in DILATIONS:
        found = reach.conv(found, 7, dilation, causal=False)
      found = reach.conv_transpose(found, 2 * stride, stride, causal=False)
    return reach.conv(found, 7, causal=False)


def conv(features: int, kernel_size: int, name: str, **window: int) -> Conv1d:
  """A centred convolution of a signal between zeros."""
  return Conv1d(features, kernel_size, causal=False, kernel_init=KERNEL_INIT, name=name, **window)


class Snake(nn.Module):
  """x + sin(alpha x)^2 / alpha, with an alpha for each channel."""

  @nn.compact
  def __call__(self, x):
    return F.snake(x, self.param("alpha", nn.initializers.ones, (x.shape[-1],)))


class ResidualUnit(nn.Module):
  """x + conv1(snake(conv7(snake(x)))), the inner convolution dilated."""

  dilation: int

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    run, width = Chain(state, final, length), x.shape[-1]
    y = Snake(name="snake_0")(x)
    y = run(conv(width, 7, "conv_0", dilation=self.dilation), y)
    y = run(conv(width, 1, "conv_1"), Snake(name="snake_1")(y))
    return run.add(x, y), run.after


class Upsample(nn.Module):
  """Snake and a transposed convolution from T to T * stride steps, less one of an odd stride.

  DAC cuts as much at the right as at the left. What the layers after it give depends on where the
  signal ends, so the step that this loses is not made up for here.
  """

  features: int
  stride: int

  def absent_after(self, steps):
    return steps * self.stride

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    x = Snake(name="snake")(x)
    layer = ConvTranspose1d(
      self.features,
      2 * self.stride,
      self.stride,
      causal=False,
      kernel_init=TRANSPOSED_INIT,
      name="conv",
    )
    y, after = layer(x, state, final, length)
    return (y[:, : y.shape[1] - self.stride % 2] if final else y), after
