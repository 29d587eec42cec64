"""Convolutional networks in whole numbers on the host, for what decides how a stream is read.

Arrays are float64 that hold whole numbers, so that NumPy multiplies matrices at full speed: every
sum of products stays below 2^53, where float64 holds each whole number, so no order of summation,
number of threads or fused multiply-add changes a bit. Activations count 1 / 4096; weights have 16
bits and a power of two for each layer, so what is lost against float32 is of no account.

Shapes: x [H, W, C]. A layer is made of real parameters (`conv`, `deconv`, `subpixel`) by products
with powers of two and rounding, which are exact too: equal parameters give equal layers anywhere.
"""

import functools
import itertools
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxcodec.errors import CodecError

UNIT_BITS = 12
UNIT = 1 << UNIT_BITS
LIMIT = 1 << 22  # Of activations and biases: 1024 in real terms.
_WEIGHT_BITS = 15
_MOST_SHIFT = 29
# What a layer sees of a latent: those of forged files go further. Times weights below 2^15 and 2^14
# terms, and with LIMIT 2^29 for the bias, it adds up below 2^53.
_MOST_INPUT = 1 << 23
_MOST_TERMS = 1 << 14
_AT_ONCE = 1 << 25  # Bytes of a layer's inputs that are multiplied at once.
_GELU_REACH = 8 * UNIT
# CRC-32 of what `_gelu_table` makes, as 4-byte little-endian integers.
_GELU_CRC = 3324361500


class Phase(NamedTuple):
  """One of the outputs that stand together at each place.

  Attributes:
    taps: offsets (row, column) of the inputs.
    matrix: [taps C, out].
    bias: [out].
  """

  taps: tuple[tuple[int, int], ...]
  matrix: np.ndarray
  bias: np.ndarray


class RowOfTaps(NamedTuple):
  """Taps of a phase in one row.

  Attributes:
    down: the row's offset.
    columns: offsets of the inputs in it.
    matrix: [columns C, out].
  """

  down: int
  columns: tuple[int, ...]
  matrix: np.ndarray


class Layer(NamedTuple):
  """A convolution: outputs times 2^shift from `stride`^2 phases, row by row."""

  phases: tuple[Phase, ...]
  stride: int
  shift: int


class Depthwise(NamedTuple):
  """A convolution of each channel by itself, stride 1, outputs times 2^shift.

  Attributes:
    kernel: [h, w, C], of odd sides.
    bias: [C].
  """

  kernel: np.ndarray
  bias: np.ndarray
  shift: int


def conv(kernel, bias, mask=None) -> Layer:
  """An odd kernel [h, w, in, out] with zeros around, stride 1; `mask` as in layers.picture."""
  whole, shift = _weights(kernel if mask is None else np.asarray(kernel, np.float32) * mask)
  offsets = range(-(whole.shape[0] // 2), whole.shape[0] // 2 + 1)
  there = np.ones((len(offsets),) * 2) if mask is None else mask[..., 0, 0]
  tap_of = {(i, j): whole[i, j] for i in range(len(offsets)) for j in range(len(offsets))}
  taps = {(offsets[i], offsets[j]): w for (i, j), w in tap_of.items() if there[i, j]}
  return Layer((_phase(taps, _biases(bias)),), 1, shift)


def deconv(kernel, bias, stride: int) -> Layer:
  """A transposed convolution, as `functional.conv2d_transpose`."""
  whole, shift = _weights(kernel)
  size, phases = len(whole), []
  for row in range(stride):
    for column in range(stride):
      taps = {}
      for i in range(size):
        for j in range(size):
          down, right = row + size // 2 - i, column + size // 2 - j
          if down % stride == 0 and right % stride == 0:
            taps[down // stride, right // stride] = whole[i, j]
      phases.append(_phase(taps, _biases(bias)))
  return Layer(tuple(phases), stride, shift)


def subpixel(kernel, bias) -> Layer:
  """An odd kernel to [2, 2, out] channels, which become places, as `layers.picture.Subpixel`."""
  whole, shift = _weights(kernel)
  reach, biases = len(whole) // 2, _biases(bias).reshape(4, -1)
  whole = whole.reshape(*whole.shape[:3], 4, -1)
  phases = []
  for phase in range(4):
    taps = {(i - reach, j - reach): whole[i, j, :, phase] for i, j in np.ndindex(whole.shape[:2])}
    phases.append(_phase(taps, biases[phase]))
  return Layer(tuple(phases), 2, shift)


def depthwise(kernel, bias) -> Depthwise:
  """An odd kernel [h, w, C] with zeros around, as `functional.depthwise_conv2d`."""
  whole, shift = _weights(kernel)
  return Depthwise(whole, _biases(bias), shift)


def apply(layer: Layer | Depthwise, x: np.ndarray) -> np.ndarray:
  """[H, W, in] to [H stride, W stride, out]."""
  height, width, channels = x.shape
  if isinstance(layer, Depthwise):
    x = np.clip(x, -_MOST_INPUT, _MOST_INPUT)
    rows, columns, _ = layer.kernel.shape
    padded = np.pad(x, ((rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)))
    sums = np.broadcast_to(layer.bias * 2.0**layer.shift, x.shape).copy()
    for i, j in np.ndindex(rows, columns):
      sums += padded[i : i + height, j : j + width] * layer.kernel[i, j]
    return _descaled(sums, layer.shift)
  size, reach = layer.phases[0].matrix.shape[1], _reach(layer)
  y = np.empty((height, layer.stride, width, layer.stride, size))
  padded = _surrounded(x, reach)
  phases = [list(_rows_of_taps(phase)) for phase in layer.phases]
  beside = {taps.columns for phase in phases for taps in phase}
  # A strip at a time, so that memory stays bounded.
  row_bytes = 8 * width * channels * sum(map(len, beside))
  rows = max(_AT_ONCE // row_bytes - 2 * reach, 1)
  for top in range(0, height, rows):
    end = min(top + rows, height)
    strip = padded[top : end + 2 * reach]
    seen = {
      columns: np.concatenate(
        [strip[:, reach + right : reach + right + width] for right in columns], axis=2
      )
      for columns in beside
    }
    for n, (phase, parts) in enumerate(zip(layer.phases, phases, strict=True)):
      sums = np.broadcast_to(phase.bias * 2.0**layer.shift, ((end - top) * width, size)).copy()
      for taps in parts:
        first = reach + taps.down
        inputs = seen[taps.columns][first : first + end - top]
        sums += inputs.reshape(len(sums), -1) @ taps.matrix
      part = _descaled(sums, layer.shift).reshape(end - top, width, size)
      y[top:end, n // layer.stride, :, n % layer.stride] = part
  return y.reshape(height * layer.stride, width * layer.stride, size)


def apply_at(layer: Layer, x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """[N, out] of a layer of stride 1 at some places of x."""
  (phase,) = layer.phases
  return _shifted(phase, layer.shift, _gather(x, phase.taps, rows, columns))


def dense(layer: Layer, x: np.ndarray) -> np.ndarray:
  """[N, out] of a layer of one tap for [N, in]."""
  (phase,) = layer.phases
  return _shifted(phase, layer.shift, x)


def gelu(x: np.ndarray) -> np.ndarray:
  """GELU in its form with tanh, rounded; x itself from 8 on, and 0 below -8.

  Raises:
    CodecError: if this machine's arithmetic does not give the integers that it should.
  """
  near = np.clip(x, -_GELU_REACH, _GELU_REACH).astype(np.int64) + _GELU_REACH
  return np.where(x > _GELU_REACH, x, _gelu_table()[near])


@functools.cache
def _gelu_table() -> np.ndarray:
  x = np.arange(-_GELU_REACH, _GELU_REACH + 1) / UNIT
  y = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
  table = np.rint(y * UNIT)
  if zlib.crc32(table.astype("<i4").tobytes()) != _GELU_CRC:
    raise CodecError("this machine's tanh is not precise enough to read latents")
  table.setflags(write=False)
  return table


def leaky_relu(x: np.ndarray) -> np.ndarray:
  """x, times 10486 / 2^20 (0.01) and rounded down where it is below zero."""
  small = x * (10486 / 2**20)
  return np.maximum(x, np.floor(small, out=small), out=small)  # The larger is right for each sign.


def relu(x: np.ndarray) -> np.ndarray:
  return np.maximum(x, 0)


def run(layers: Sequence[Layer | Depthwise], activation, x: np.ndarray) -> np.ndarray:
  """Layers with an activation between each two."""
  for layer in layers[:-1]:
    x = activation(apply(layer, x))
  return apply(layers[-1], x)


def whole(values) -> np.ndarray:
  """Real float32 values in units of 1 / 4096."""
  scaled = np.asarray(values, np.float32).astype(np.float64) * UNIT
  return np.clip(np.rint(scaled), -LIMIT, LIMIT)


def _weights(kernel) -> tuple[np.ndarray, int]:
  """Whole weights below 2^15, and the power of two that they were multiplied by."""
  kernel = np.asarray(kernel, np.float32).astype(np.float64)
  if kernel[..., 0].size > _MOST_TERMS:
    raise ValueError(f"{kernel[..., 0].size} products do not add up exactly in float64")
  exponent = int(np.frexp(np.abs(kernel).max(initial=0))[1])
  shift = min(max(_WEIGHT_BITS - exponent, 1), _MOST_SHIFT)
  return np.clip(np.rint(kernel * 2.0**shift), 1 - 2**_WEIGHT_BITS, 2**_WEIGHT_BITS - 1), shift


def _biases(bias) -> np.ndarray:
  return whole(bias)


def _phase(taps: dict[tuple[int, int], np.ndarray], bias: np.ndarray) -> Phase:
  return Phase(tuple(taps), np.concatenate(list(taps.values()), axis=0), bias)


def _rows_of_taps(phase: Phase) -> Iterator[RowOfTaps]:
  channels, first = len(phase.matrix) // len(phase.taps), 0
  for down, taps in itertools.groupby(phase.taps, key=lambda tap: tap[0]):
    columns = tuple(right for _, right in taps)
    end = first + len(columns) * channels
    yield RowOfTaps(down, columns, phase.matrix[first:end])
    first = end


def _gather(x: np.ndarray, taps, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """[N, taps C]: what each tap sees of x at each place, zeros outside."""
  reach = max(max(map(abs, tap)) for tap in taps)
  padded = _surrounded(x, reach)
  parts = [padded[rows + reach + down, columns + reach + right] for down, right in taps]
  return np.concatenate(parts, axis=1)


def _reach(layer: Layer) -> int:
  return max(abs(offset) for phase in layer.phases for tap in phase.taps for offset in tap)


def _surrounded(x: np.ndarray, reach: int) -> np.ndarray:
  x = np.clip(x, -_MOST_INPUT, _MOST_INPUT)
  return np.pad(x, ((reach, reach), (reach, reach), (0, 0)))


def _shifted(phase: Phase, shift: int, inputs: np.ndarray) -> np.ndarray:
  sums = inputs @ phase.matrix
  sums += phase.bias * 2.0**shift
  return _descaled(sums, shift)


def _descaled(sums: np.ndarray, shift: int) -> np.ndarray:
  """`sums` / 2^shift, rounded, halves up, and clipped, written over them.

  Whole sums are half of one from where rounding turns, so that noise below a half changes nothing.
  """
  sums *= 2.0**-shift
  sums += 0.5 + 2.0 ** -(shift + 1)  # Inexact from 2^52 on alone, which is clipped.
  return np.clip(np.floor(sums, out=sums), -LIMIT, LIMIT, out=sums)
