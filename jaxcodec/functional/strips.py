"""Convolutions and norms of pictures one after another, in strips of rows.

A layer at half the size of a picture gives tens of megabytes, and on CPU most of its time goes to
memory. In strips of a few rows what it gives stays in cache until the next layer has read it. Each
output is of the same products; with 128 channels all bits were those without strips, with 8 some
sums were added in another order.

Shapes: x [B, H, W, C], kernels [height, width, in, out].
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcodec.functional.picture_conv import (
  conv2d,
  conv2d_transpose,
  generalized_norm,
  transposed_reach,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Conv:
  """`conv2d`, or `conv2d_transpose` if `up`, of an odd square kernel."""

  kernel: Any
  bias: Any
  stride: int = dataclasses.field(metadata={"static": True})
  up: bool = dataclasses.field(default=False, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Norm:
  """`generalized_norm`."""

  beta: Any
  gamma: Any
  inverse: bool = dataclasses.field(default=False, metadata={"static": True})


class Rows(NamedTuple):
  """Rows of a layer that a strip needs: `number` from `unit` * strip + `first` on."""

  unit: int
  first: int
  number: int


Layers = Sequence[Conv | Norm]

_FEW = 4  # Channels that are gathered faster here than in XLA's convolution.
_LARGE = 1 << 23  # Bytes that a cache does not hold besides weights.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def in_turn(layers: Layers, x, rows: int):
  """The layers one after another: on CPU in strips, if what stands between is large.

  On other platforms and where gradients are taken there are no strips. `rows` is of `in_strips`.
  """
  between = [jax.eval_shape(whole, layers[:n], x) for n in range(1, len(layers))]
  largest = max((y.size * y.dtype.itemsize for y in between), default=0)
  if largest <= _LARGE:
    return whole(layers, x)
  strips = functools.partial(in_strips, rows=rows)
  return jax.lax.platform_dependent(layers, x, cpu=strips, default=whole)


def _in_turn_fwd(layers: Layers, x, rows: int):
  return jax.vjp(whole, layers, x)


def _in_turn_bwd(rows: int, transposed, g):
  return transposed(g)


in_turn.defvjp(_in_turn_fwd, _in_turn_bwd)


def whole(layers: Layers, x):
  """The layers one after another."""
  for layer in layers:
    x = _applied(layer, x)
  return x


def in_strips(layers: Layers, x, rows: int):
  """As `whole`, of layers that all widen or all narrow, for x of whole outputs of the last.

  Args:
    rows: of the narrower end, input or output, that are a strip.
  """
  ups = {layer.up for layer in layers if isinstance(layer, Conv)}
  if len(ups) > 1:
    raise ValueError("layers in strips all widen or all narrow")
  up = True in ups
  factor = 1
  for layer in layers:
    factor *= layer.stride if isinstance(layer, Conv) else 1
  small = x.shape[1] if up else x.shape[1] // factor
  if not up and x.shape[1] % factor:
    raise ValueError(f"{x.shape[1]} rows are not {factor} times a number")
  rows = min(rows, small)
  needed = [Rows(factor if up else 1, 0, rows * (factor if up else 1))]
  heights = [x.shape[1]]
  for layer in layers:
    heights.append(_height(layer, heights[-1]))
  for layer in reversed(layers):
    needed.insert(0, _before(layer, needed[0]))
  start = needed[0]
  above = max(0, -start.first)
  last = start.unit * (small - rows) + start.first + start.number
  padded = jnp.pad(x, ((0, 0), (above, max(0, last - x.shape[1])), (0, 0), (0, 0)))

  def strip(index):
    place = start.unit * index + start.first + above
    y = jax.lax.dynamic_slice_in_dim(padded, place, start.number, axis=1)
    for n, layer in enumerate(layers):
      if n and isinstance(layer, Conv):
        # Beyond its picture a layer sees zeros, and not what the one before would give there.
        at = needed[n].unit * index + needed[n].first + jnp.arange(needed[n].number)
        y = jnp.where(((at >= 0) & (at < heights[n]))[:, None, None], y, 0)
      y = _applied(layer, y, rows_around=True)
      if isinstance(layer, Conv) and layer.up:
        ahead = needed[n + 1].first % layer.stride
        y = y[:, ahead : ahead + needed[n + 1].number]
    return y

  def put(number, out):
    index = jnp.minimum(number * rows, small - rows)  # The last strip may share rows with another.
    at = needed[-1].unit * index
    return jax.lax.dynamic_update_slice_in_dim(out, strip(index), at, axis=1)

  shape = jax.eval_shape(lambda x: whole(layers, x), x)
  return jax.lax.fori_loop(0, -(-small // rows), put, jnp.zeros(shape.shape, shape.dtype))


def _before(layer: Conv | Norm, out: Rows) -> Rows:
  """The rows of a layer's input that some of its output need."""
  if isinstance(layer, Norm):
    return out
  size, stride = layer.kernel.shape[0], layer.stride
  if not layer.up:
    return Rows(out.unit * stride, out.first * stride - size // 2, (out.number - 1) * stride + size)
  before, after = transposed_reach(size, stride)
  first, end = out.first // stride, (out.first + out.number - 1) // stride + 1
  return Rows(out.unit // stride, first - before, end - first + before + after)


def _height(layer: Conv | Norm, height: int) -> int:
  if isinstance(layer, Norm):
    return height
  return height * layer.stride if layer.up else -(-height // layer.stride)


def _applied(layer: Conv | Norm, x, rows_around: bool = False):
  if isinstance(layer, Norm):
    return generalized_norm(x, layer.beta, layer.gamma, inverse=layer.inverse)
  if rows_around and not layer.up and x.shape[-1] <= _FEW:
    return _of_few_channels(layer, x)
  convolve = conv2d_transpose if layer.up else conv2d
  return convolve(x, layer.kernel, layer.bias, stride=layer.stride, rows_around=rows_around)


def _of_few_channels(layer: Conv, x):
  """A convolution of x with the rows around it, as one product of matrices."""
  (size, _, _, features), stride = layer.kernel.shape, layer.stride
  rows, columns = (x.shape[1] - size) // stride + 1, -(-x.shape[2] // stride)
  x = jnp.pad(x, ((0, 0), (0, 0), (size // 2, size // 2), (0, 0)))
  taps = [
    x[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
    for i in range(size)
    for j in range(size)
  ]
  return jnp.dot(jnp.concatenate(taps, axis=-1), layer.kernel.reshape(-1, features)) + layer.bias
