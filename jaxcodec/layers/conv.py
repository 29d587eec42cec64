"""Convolutions that own their parameters, for signals that come whole or in chunks.

Every layer here is called as `y, state = layer(x, state, final, length)`; see `layers.chain`.
x is [B, T, C].
"""

from typing import Any, Literal

import flax.linen as nn

from jaxcodec import functional as F
from jaxcodec.layers.norms import norm_over_time

Norm = Literal["time_group"] | None


class Conv1d(nn.Module):
  """Convolution from T to ceil(T / stride) steps.

  Attributes:
    features: output channels.
    kernel_size: taps.
    stride: input steps per output step.
    dilation: steps between taps.
    causal: whether an output depends on no later input; else it is centred on its inputs.
    pad_mode: what stands outside the signal.
    norm: "time_group" normalises over all of (T, C) of a row after the convolution.
    use_bias: whether a bias is added.
    groups: parts of the channels that do not meet; with `causal` alone.
    kernel_init: how the kernel [kernel_size, in, out] is drawn.
  """

  features: int
  kernel_size: int
  stride: int = 1
  dilation: int = 1
  causal: bool = True
  pad_mode: F.PadMode = "zero"
  norm: Norm = None
  use_bias: bool = True
  groups: int = 1
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

  def absent_after(self, steps):
    return steps // self.stride

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None, steady: bool = False):
    shape = _kernel_shape(self, x)
    kernel = self.param("kernel", self.kernel_init, shape)
    bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
    window: dict[str, Any] = {"stride": self.stride, "dilation": self.dilation}
    window |= {"pad_mode": self.pad_mode, "final": final, "length": length}
    window |= {"steady": steady and self.groups == 1}
    if self.causal:
      y, after = F.causal_conv(x, kernel, bias, state, groups=self.groups, **window)
    else:
      y, after = F.same_conv(x, kernel, bias, state, **window)
    steps = None if length is None else -(-length // self.stride)
    return _normalise(self, y, state, final, steps), after


class ConvTranspose1d(nn.Module):
  """Transposed convolution from T to T * stride steps.

  Attributes: as `Conv1d`; the result is cut at the right if causal, else on both sides.
  """

  features: int
  kernel_size: int
  stride: int
  causal: bool = True
  norm: Norm = None
  use_bias: bool = True
  groups: int = 1
  kernel_init: nn.initializers.Initializer | None = None

  def absent_after(self, steps):
    return steps * self.stride

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    shape = _kernel_shape(self, x)
    # Each output meets kernel_size / stride taps; the fan counts all of them.
    even = nn.initializers.variance_scaling(self.stride, "fan_in", "truncated_normal")
    kernel = self.param("kernel", self.kernel_init or even, shape)
    bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
    if self.causal:
      window = {"stride": self.stride, "groups": self.groups}
      y, after = F.causal_conv_transpose(x, kernel, bias, state, **window)
      return _normalise(self, y, state, final, length), after
    if self.norm is None:
      return F.same_conv_transpose(
        x, kernel, bias, state, stride=self.stride, final=final, length=length
      )
    # The norm sees the untrimmed result, as in EnCodec.
    y = F.conv_transpose(F.absent_as_zero(x, length), kernel, bias, stride=self.stride)
    excess = self.kernel_size - self.stride
    steps = None if length is None else length * self.stride + excess
    y = _normalise(self, y, state, final, steps)
    left = excess - excess // 2
    return y[:, left : left + x.shape[1] * self.stride], ()


class DepthwiseConv1d(nn.Module):
  """Convolution with one filter per channel, zeros outside the signal.

  Attributes: as `Conv1d`; without `causal` the width is odd and nothing is dilated.
  """

  kernel_size: int
  dilation: int = 1
  causal: bool = True

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    init = nn.initializers.normal(self.kernel_size**-0.5)
    kernel = self.param("kernel", init, (self.kernel_size, x.shape[-1]))
    bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
    if self.causal:  # Nothing stands after the end.
      return F.causal_depthwise_conv(x, kernel, bias, state, dilation=self.dilation)
    if self.dilation > 1 or self.kernel_size % 2 == 0:
      raise ValueError("a centred depthwise convolution has an odd width and no dilation")
    return F.same_depthwise_conv(x, kernel, bias, state, final=final, length=length)


class DepthwiseConvTranspose1d(nn.Module):
  """Causal transposed convolution of each channel alone, without a bias, from T to T * stride."""

  kernel_size: int
  stride: int

  def absent_after(self, steps):
    return steps * self.stride

  @nn.compact
  def __call__(self, x, state=None, final: bool = True, length=None):
    del final, length  # Nothing is padded, and no step sees a later one.
    init = nn.initializers.constant(self.stride / self.kernel_size)
    kernel = self.param("kernel", init, (self.kernel_size, x.shape[-1]))
    return F.depthwise_conv_transpose(x, kernel, state, stride=self.stride)


def _kernel_shape(layer, x):
  if layer.groups > 1 and not layer.causal:
    raise ValueError("groups of channels need causal=True")
  return layer.kernel_size, x.shape[-1] // layer.groups, layer.features


def _normalise(layer, y, state, final, length):
  if layer.norm is None:
    return y
  if layer.causal:
    raise ValueError("a norm over time needs the whole signal: use it with causal=False")
  norm = nn.GroupNorm(num_groups=1, epsilon=1e-5, use_fast_variance=False, name="norm")
  return norm_over_time(norm, y, state, final, length)
