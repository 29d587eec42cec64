"""One-dimensional convolutions, whole or in chunks, as pure functions.

Shapes: x [B, T, C], kernels [width, in, out]. A causal convolution over a signal that comes in
chunks takes what it must remember as `state` and returns it; `state=None` says that the signal
starts here.
"""

from typing import Literal

import jax
import jax.numpy as jnp

PadMode = Literal["reflect", "zero"]


def conv(x, kernel, bias=None, *, stride: int = 1, dilation: int = 1):
  """Convolution without padding: [B, T, in] -> [B, (T - span) // stride + 1, out]."""
  y = jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride,),
    padding="VALID",
    rhs_dilation=(dilation,),
    dimension_numbers=("NWC", "WIO", "NWC"),
  )
  return y if bias is None else y + bias


def conv_transpose(x, kernel, bias=None, *, stride: int):
  """Transposed convolution, untrimmed: [B, T, in] -> [B, (T - 1) * stride + width, out].

  Written as a convolution to `stride * out` channels and a reshape, because XLA's weight gradient
  of a convolution with dilated input is tens of times slower on CPU.
  """
  taps = -(-kernel.shape[0] // stride)
  y = _subpixel(jnp.pad(x, ((0, 0), (taps - 1, taps - 1), (0, 0))), kernel, stride)
  y = y[:, : (x.shape[1] - 1) * stride + kernel.shape[0]]
  return y if bias is None else y + bias


def causal_conv(
  x,
  kernel,
  bias=None,
  state=None,
  *,
  stride: int = 1,
  dilation: int = 1,
  pad_mode: PadMode = "zero",
  final: bool = True,
):
  """Convolution that sees no later sample, except through `reflect` at the signal's two ends.

  Args:
    x: `[B, T, in]`, the next part of the signal.
    state: `[B, span - stride, in]`, the samples before `x`; None at the signal's start.
    pad_mode: what stands before the start, and after the end when T is no multiple of `stride`.
    final: whether the signal ends with `x`.

  Returns:
    `(y, state)`: y `[B, ceil(T / stride), out]` and the state for the next part.

  Raises:
    ValueError: if a part that is not the last is no multiple of `stride`, or too short to reflect.
  """
  span = (kernel.shape[0] - 1) * dilation + 1
  past = span - stride
  extra = -x.shape[1] % stride
  if not final and extra:
    raise ValueError(f"a chunk of {x.shape[1]} is no multiple of the stride {stride}")
  if state is None:
    if not final and pad_mode == "reflect" and x.shape[1] <= past:
      raise ValueError(f"the first chunk is too short: {x.shape[1]} samples, {past + 1} needed")
    x = pad(x, past, extra, pad_mode)
  else:
    x = pad(jnp.concatenate([state, x], axis=1), 0, extra, pad_mode)
  end = x.shape[1] - extra
  return conv(x, kernel, bias, stride=stride, dilation=dilation), x[:, end - past : end]


def causal_conv_transpose(x, kernel, bias=None, state=None, *, stride: int):
  """Transposed convolution cut at the right to `T * stride` samples, so that it is causal.

  The state is the last `ceil(width / stride) - 1` inputs, not the output's overlapping tail: then
  every output is one sum over all its taps, as in the whole. Chunks equal the whole up to the
  order in which the backend multiplies matrices of their height.
  """
  past = -(-kernel.shape[0] // stride) - 1
  if state is None:
    state = jnp.zeros((x.shape[0], past, x.shape[2]), x.dtype)
  x = jnp.concatenate([state, x], axis=1)
  y = _subpixel(x, kernel, stride)
  return (y if bias is None else y + bias), x[:, x.shape[1] - past :]


def same_conv(x, kernel, bias=None, *, stride: int = 1, dilation: int = 1, pad_mode: PadMode):
  """Convolution centred on its output: [B, T, in] -> [B, ceil(T / stride), out].

  Of an odd total the left side gets the larger half (EnCodec, modules/conv.py).
  """
  total = (kernel.shape[0] - 1) * dilation + 1 - stride
  right = total // 2
  x = pad(x, total - right, right + -x.shape[1] % stride, pad_mode)
  return conv(x, kernel, bias, stride=stride, dilation=dilation)


def pad(x, left: int, right: int, mode: PadMode):
  """Pads the time axis; a signal too short to reflect is lengthened by zeros first, then cut
  back."""
  widths = ((0, 0), (left, right), (0, 0))
  if mode == "zero" or left == right == 0:
    return jnp.pad(x, widths)
  short = max(0, max(left, right) + 1 - x.shape[1])
  x = jnp.pad(jnp.pad(x, ((0, 0), (0, short), (0, 0))), widths, mode="reflect")
  return x[:, : x.shape[1] - short]


def _subpixel(x, kernel, stride: int):
  """Blocks of `stride` outputs from each run of taps: [B, T, in] -> [B, (T - taps + 1) * stride,
  out]."""
  width, features_in, features_out = kernel.shape
  taps = -(-width // stride)
  kernel = jnp.pad(kernel, ((0, taps * stride - width), (0, 0), (0, 0)))
  kernel = kernel.reshape(taps, stride, features_in, features_out)[::-1]
  kernel = kernel.transpose(0, 2, 1, 3).reshape(taps, features_in, stride * features_out)
  y = conv(x, kernel)
  return y.reshape(y.shape[0], y.shape[1] * stride, features_out)
