"""One-dimensional convolutions, whole or in chunks, as pure functions.

Shapes: x [B, T, C], kernels [width, in / groups, out]. A convolution over a signal that comes in
chunks takes what it must remember as `state` and returns it; `state=None` says that the signal
starts here, `final` that it ends here. `length` [B] says how many steps of `x` exist in each row,
None that all do: a row's result is then that of the row cut to its length, followed by steps of no
meaning.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

PadMode = Literal["reflect", "replicate", "zero"]


def conv(x, kernel, bias=None, *, stride: int = 1, dilation: int = 1, groups: int = 1):
  """Convolution without padding: [B, T, in] -> [B, (T - span) // stride + 1, out]."""
  y = jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride,),
    padding="VALID",
    rhs_dilation=(dilation,),
    dimension_numbers=("NWC", "WIO", "NWC"),
    feature_group_count=groups,
  )
  return y if bias is None else y + bias


def steady_conv(x, kernel, bias=None, *, stride: int = 1, dilation: int = 1):
  """As `conv`; on a CPU the last bit of an output depends on its inputs alone, not on T nor B.

  How XLA splits a long sum depends on how many there are, so no more than 128 products are
  added up at a time.
  """
  y = jax.lax.platform_dependent(
    x,
    kernel,
    cpu=functools.partial(_in_parts, stride=stride, dilation=dilation),
    default=functools.partial(conv, stride=stride, dilation=dilation),
  )
  return y if bias is None else y + bias


# Eigen, which XLA calls on CPUs, splits no shorter sum over threads or for its cache.
_LONGEST_SUM = 128


def _in_parts(x, kernel, *, stride: int, dilation: int):
  width, features, out = kernel.shape
  steps = (x.shape[1] - (width - 1) * dilation - 1) // stride + 1
  if width * features <= _LONGEST_SUM:
    return _in_one(x, kernel, stride, dilation)
  if stride > 1 and dilation == 1:
    # As many steps side by side as a stride has.
    groups = -(-width // stride)
    kernel = jnp.pad(kernel, ((0, groups * stride - width), (0, 0), (0, 0)))
    length = (steps + groups - 1) * stride
    x = jnp.pad(x, ((0, 0), (0, max(0, length - x.shape[1])), (0, 0)))[:, :length]
    width, features, stride = groups, stride * features, 1
    x, kernel = x.reshape(len(x), -1, features), kernel.reshape(width, features, out)
  together = max(1, _LONGEST_SUM // features)
  size = -(-features // -(-features // _LONGEST_SUM))
  found = []
  for start in range(0, width, together):
    taps = kernel[start : start + together]
    span = (len(taps) - 1) * dilation + (steps - 1) * stride + 1
    seen = x[:, start * dilation :][:, :span]
    for part in range(0, features, size):
      columns = slice(part, part + size)
      found.append(_in_one(seen[..., columns], taps[:, columns], stride, dilation))
  return sum(found[1:], found[0])


def _in_one(x, kernel, stride: int, dilation: int):
  """`conv` of a sum that is not split; of one step as well, which is no product of matrices."""
  width, _, out = kernel.shape
  if len(x) == 1 and x.shape[1] == (width - 1) * dilation + 1:
    return conv(x[:, ::dilation].reshape(1, 1, -1), kernel.reshape(1, -1, out))
  return conv(x, kernel, stride=stride, dilation=dilation)


def conv_transpose(x, kernel, bias=None, *, stride: int, groups: int = 1):
  """Transposed convolution, untrimmed: [B, T, in] -> [B, (T - 1) * stride + width, out].

  Written as a convolution to `stride * out` channels and a reshape, because XLA's weight gradient
  of a convolution with dilated input is tens of times slower on CPU.
  """
  taps = -(-kernel.shape[0] // stride)
  y = _subpixel(jnp.pad(x, ((0, 0), (taps - 1, taps - 1), (0, 0))), kernel, stride, groups)
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
  groups: int = 1,
  steady: bool = False,
  pad_mode: PadMode = "zero",
  final: bool = True,
  length=None,
):
  """Convolution that sees no later sample, except through `reflect` at the signal's two ends.

  Args:
    x: `[B, T, in]`, the next part of the signal.
    steady: whether it is `steady_conv`, which has no groups.
    state: the `span - stride` samples before `x`, `[B, span - stride, in]`; unless `pad_mode` is
      "zero", in a pair with whether each row has begun, bool `[B]`. None at the signal's start,
      and all zeros are a start too.
    pad_mode: what stands before the start, and after the end when T is no multiple of `stride`.

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
  if state is None and not final and pad_mode == "reflect" and x.shape[1] <= past:
    raise ValueError(f"the first chunk is too short: {x.shape[1]} steps, a layer needs {past + 1}")

  def start():
    return _surround(x, past, 0, span, stride, pad_mode, final, length)

  def go_on(before):
    total = None if length is None else length + past
    joined = jnp.concatenate([before, x], axis=1)
    return _surround(joined, 0, 0, span, stride, pad_mode, final, total)

  if state is None:
    padded = start()
  elif pad_mode == "zero":
    padded = go_on(state)
  else:
    padded = jnp.where(state[1][:, None, None], go_on(state[0]), start())
  end = padded.shape[1] - extra
  before = padded[:, end - past : end]
  if steady:
    y = steady_conv(padded, kernel, bias, stride=stride, dilation=dilation)
  else:
    y = conv(padded, kernel, bias, stride=stride, dilation=dilation, groups=groups)
  return y, before if pad_mode == "zero" else (before, jnp.ones(x.shape[0], bool))


def same_conv(
  x,
  kernel,
  bias=None,
  state=None,
  *,
  stride: int = 1,
  dilation: int = 1,
  steady: bool = False,
  pad_mode: PadMode = "zero",
  final: bool = True,
  length=None,
):
  """Convolution centred on its output, of ceil(T / stride) steps in all.

  Of an odd padding the left side gets the larger half (EnCodec, modules/conv.py). An output waits
  for its latest input: the first part of a signal gives fewer steps than its share, the last more.

  Args:
    steady: whether it is `steady_conv`.
    state: the inputs that outputs to come still need.

  Returns:
    `(y, state)`.

  Raises:
    ValueError: if a part is too short to reflect.
  """
  span = (kernel.shape[0] - 1) * dilation + 1
  right = (span - stride) // 2
  left = 0
  if state is None:
    left = span - stride - right
    if not final and pad_mode == "reflect" and x.shape[1] <= left:
      raise ValueError(
        f"the first chunk is too short: {x.shape[1]} steps, a layer needs {left + 1}"
      )
  else:
    length = None if length is None else length + state.shape[1]
    x = jnp.concatenate([state, x], axis=1)
    if final and pad_mode == "reflect" and x.shape[1] < right + stride:
      raise ValueError(f"the last chunk is too short to reflect {right + stride - 1} samples")
  padded = _surround(x, left, right, span, stride, pad_mode, final, length)
  steps = (padded.shape[1] - span) // stride + 1
  if steps < 1:
    return jnp.zeros((x.shape[0], 0, kernel.shape[2]), x.dtype), padded
  summed = steady_conv if steady else conv
  y = summed(padded, kernel, bias, stride=stride, dilation=dilation)
  return y, padded[:, steps * stride :]


def causal_depthwise_conv(x, kernel, bias=None, state=None, *, dilation: int = 1):
  """As `causal_conv` with one filter per channel, kernel [width, C], and zeros before the start.

  Written as shifted products, which XLA fuses; its depthwise convolution is tens of times slower
  on CPU.
  """
  past = (kernel.shape[0] - 1) * dilation
  if state is None:
    state = jnp.zeros((x.shape[0], past, x.shape[2]), x.dtype)
  joined, steps = jnp.concatenate([state, x], axis=1), x.shape[1]
  taps = [
    joined[:, i * dilation : i * dilation + steps] * kernel[i] for i in range(kernel.shape[0])
  ]
  y = sum(taps[1:], taps[0])
  return (y if bias is None else y + bias), joined[:, steps:]


def same_depthwise_conv(x, kernel, bias=None, state=None, *, final: bool = True, length=None):
  """As `same_conv` with one filter of odd width per channel, kernel [width, C], between zeros."""
  side = kernel.shape[0] // 2
  x = absent_as_zero(x, length)
  before = jnp.zeros((x.shape[0], side, x.shape[2]), x.dtype) if state is None else state
  joined = jnp.concatenate([before, x], axis=1)
  if final:
    joined = jnp.pad(joined, ((0, 0), (0, side), (0, 0)))
  steps = joined.shape[1] - 2 * side
  if steps < 1:
    return x[:, :0], joined
  taps = [joined[:, i : i + steps] * kernel[i] for i in range(kernel.shape[0])]
  y = sum(taps[1:], taps[0])
  return (y if bias is None else y + bias), joined[:, steps:]


def causal_conv_transpose(x, kernel, bias=None, state=None, *, stride: int, groups: int = 1):
  """Transposed convolution cut at the right to `T * stride` samples, so that it is causal.

  The state is the last `ceil(width / stride) - 1` inputs, not the output's overlapping tail: then
  every output is one sum over all its taps, as in the whole. Chunks equal the whole up to the
  order in which the backend multiplies matrices of their height.
  """
  past = -(-kernel.shape[0] // stride) - 1
  if state is None:
    state = jnp.zeros((x.shape[0], past, x.shape[2]), x.dtype)
  x = jnp.concatenate([state, x], axis=1)
  y = _subpixel(x, kernel, stride, groups)
  return (y if bias is None else y + bias), x[:, x.shape[1] - past :]


def depthwise_conv_transpose(x, kernel, state=None, *, stride: int):
  """Causal transposed convolution of each channel alone; kernel [width, C], a multiple of `stride`.

  Written as a sum of products, because XLA's depthwise convolutions are slow on CPU.

  Returns:
    `(y, state)`: y `[B, T * stride, C]`, and the inputs that outputs to come still need.
  """
  taps, width = kernel.shape[0] // stride, x.shape[-1]
  if state is None:
    state = jnp.zeros((x.shape[0], taps - 1, width), x.dtype)
  steps = x.shape[1]
  x = jnp.concatenate([state, x], axis=1)
  kernel = kernel.reshape(taps, stride, width)
  shifted = (x[:, taps - 1 - i : taps - 1 - i + steps, None] * kernel[i] for i in range(taps))
  return sum(shifted).reshape(x.shape[0], steps * stride, width), x[:, steps:]


def same_conv_transpose(
  x, kernel, bias=None, state=None, *, stride: int, final: bool = True, length=None
):
  """Transposed convolution cut on both sides to `T * stride` samples in all.

  Of an odd excess `width - stride` the left side loses the larger half. As each cut at the left
  delays the output, the first part of a signal gives fewer samples than its share, the last more.

  Returns:
    `(y, state)`; the state stays None until the first step comes.
  """
  if x.shape[1] == 0 and state is None:
    return jnp.zeros((x.shape[0], 0, kernel.shape[2]), x.dtype), None
  excess = kernel.shape[0] - stride
  delay = excess - excess // 2
  size = x.shape[1] * stride
  x = absent_as_zero(x, length)
  if final:
    x = jnp.pad(x, ((0, 0), (0, -(-delay // stride)), (0, 0)))
    size += delay
  y, after = causal_conv_transpose(x, kernel, bias, state, stride=stride)
  return y[:, delay if state is None else 0 : size], after


def absent_as_zero(x, length):
  """`x` [B, T, C] with zeros in steps at and past `length` [B]; `x` itself for None."""
  if length is None:
    return x
  return jnp.where((jnp.arange(x.shape[1]) < length[:, None])[..., None], x, 0)


def pad(x, left: int, right: int, mode: PadMode):
  """Pads the time axis; a signal too short to reflect is lengthened by zeros first, then cut
  back."""
  widths = ((0, 0), (left, right), (0, 0))
  if mode == "zero" or left == right == 0:
    return jnp.pad(x, widths)
  if mode == "replicate":
    return jnp.pad(x, widths, mode="edge")
  short = max(0, max(left, right) + 1 - x.shape[1])
  x = jnp.pad(jnp.pad(x, ((0, 0), (0, short), (0, 0))), widths, mode="reflect")
  return x[:, : x.shape[1] - short]


def _surround(x, left, right, span, stride, mode, final, length):
  """Pads `x` so that a convolution over `span` gives all steps that are due.

  If the signal ends here, `right` and what a last window lacks are added after its end.
  """
  if not final:
    return pad(x, left, 0, mode)
  known = left + right - span
  extra = -(x.shape[1] + known) % stride
  if length is None:
    return pad(x, left, right + extra, mode)
  x = absent_as_zero(x, length)
  padded = jnp.pad(pad(x, left, 0, mode), ((0, 0), (0, right + extra), (0, 0)))
  if mode == "zero":
    return padded
  right_of_row = right + -(length + known) % stride
  place, values = _ends(x, left, right_of_row[:, None], right + stride - 1, mode, length[:, None])
  rows = jnp.arange(x.shape[0])[:, None]
  return padded.at[rows, left + place].set(values, mode="drop")


def _ends(x, left, right, widest, mode, length):
  """What follows each row of `x` [B, T, C] at its own `length` [B, 1]: places and values there.

  The first `right` [B, 1] of `widest` places count; the others lie past all of the row.
  """
  after = jnp.arange(widest)
  place = length + after
  if mode == "replicate":
    source = jnp.broadcast_to(length - 1, place.shape)
  else:
    edge = jnp.maximum(length - 1, jnp.maximum(left, right))
    source = jnp.where(place > edge, 2 * edge - place, place)
  there = (source >= 0) & (source < length)
  values = jnp.take_along_axis(x, jnp.clip(source, 0, x.shape[1] - 1)[..., None], axis=1)
  return jnp.where(after < right, place, x.shape[1] + right + widest), jnp.where(
    there[..., None], values, 0
  )


def _subpixel(x, kernel, stride: int, groups: int = 1):
  """Blocks of `stride` outputs from each run of taps: [B, T, in] -> [B, (T - taps + 1) * stride,
  out]."""
  width, features_in, features_out = kernel.shape
  taps, rows = -(-width // stride), x.shape[0]
  kernel = jnp.pad(kernel, ((0, taps * stride - width), (0, 0), (0, 0)))
  # A group's outputs stand together, so `stride` goes inside the group.
  kernel = kernel.reshape(taps, stride, features_in, groups, -1)[::-1].transpose(0, 2, 3, 1, 4)
  y = conv(x, kernel.reshape(taps, features_in, stride * features_out), groups=groups)
  y = y.reshape(rows, -1, groups, stride, features_out // groups).swapaxes(2, 3)
  return y.reshape(rows, -1, features_out)
