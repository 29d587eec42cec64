"""Convolutions that own their parameters, for signals that come whole or in chunks.

Every layer here is called as `y, state = layer(x, state, final)`: `state=None` says that the signal
starts with `x`, `final` that it ends with it. x is [B, T, C].
"""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec import functional as F

Norm = Literal["time_group"] | None


class Conv1d(nn.Module):
  """Convolution from T to ceil(T / stride) steps.

  Attributes:
    features: output channels.
    kernel_size: taps.
    stride: input steps per output step.
    dilation: steps between taps.
    causal: whether an output depends on no later input; only then can a signal come in chunks.
    pad_mode: what stands outside the signal.
    norm: "time_group" normalises over all of (T, C) of a row after the convolution.
  """

  features: int
  kernel_size: int
  stride: int = 1
  dilation: int = 1
  causal: bool = True
  pad_mode: F.PadMode = "zero"
  norm: Norm = None

  @nn.compact
  def __call__(self, x, state=None, final: bool = True):
    shape = (self.kernel_size, x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    window: dict[str, Any] = {"stride": self.stride, "dilation": self.dilation}
    window["pad_mode"] = self.pad_mode
    if self.causal:
      y, state = F.causal_conv(x, kernel, bias, state, final=final, **window)
    else:
      _require_whole(self, state, final)
      y = F.same_conv(x, kernel, bias, **window)
    return _normalise(self, y, state, final), state


class ConvTranspose1d(nn.Module):
  """Transposed convolution from T to T * stride steps.

  Attributes: as `Conv1d`; the result is cut at the right if causal, else on both sides.
  """

  features: int
  kernel_size: int
  stride: int
  causal: bool = True
  norm: Norm = None

  @nn.compact
  def __call__(self, x, state=None, final: bool = True):
    shape = (self.kernel_size, x.shape[-1], self.features)
    # Each output meets kernel_size / stride taps; the fan counts all of them.
    init = nn.initializers.variance_scaling(self.stride, "fan_in", "truncated_normal")
    kernel = self.param("kernel", init, shape)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    if self.causal:
      y, state = F.causal_conv_transpose(x, kernel, bias, state, stride=self.stride)
      return _normalise(self, y, state, final), state
    _require_whole(self, state, final)
    # The norm sees the untrimmed result, as in EnCodec.
    y = _normalise(self, F.conv_transpose(x, kernel, bias, stride=self.stride), state, final)
    excess = self.kernel_size - self.stride
    left = excess - excess // 2
    return y[:, left : left + x.shape[1] * self.stride], state


def _require_whole(layer, state, final):
  if state is not None or not final:
    raise ValueError(f"{type(layer).__name__} is not causal: the signal must come whole")


def _normalise(layer, y, state, final):
  if layer.norm is None:
    return y
  if state is not None or not final or layer.causal:
    raise ValueError("a norm over time needs the whole signal: use it with causal=False")
  norm = nn.GroupNorm(num_groups=1, epsilon=1e-5, use_fast_variance=False, name="norm")
  return norm(y.astype(jnp.float32))
