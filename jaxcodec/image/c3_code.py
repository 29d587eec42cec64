"""What was fitted to a picture as bytes and back: integers of grids and of networks.

The entropy network runs in whole numbers (`functional.exact`), so both sides see the same tables
wherever they run. An integer waits for those before it, but not for all: with c columns of context
to the right, all on a line of slope c + 1 are ready together, and go through the network at once.

Shapes: grids [h, w] of integers; networks nested dicts of arrays.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import constriction
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcodec.entropy import laplace, latents
from jaxcodec.entropy.fields import read_varint, varint
from jaxcodec.errors import CodecError
from jaxcodec.functional import exact
from jaxcodec.functional.exact import UNIT, Layer
from jaxcodec.image import c3, c3_fit
from jaxcodec.image.c3 import EntropyNetwork, Synthesis
from jaxcodec.image.c3_fit import Fit

STEPS = (5e-5, 1e-4, 5e-4, 1e-3, 3e-3, 6e-3, 1e-2)  # Of weights, and of biases.
_STEP_UNIT = 1000  # Of the grids' step.
_AT_ONCE = 1 << 16  # Numbers whose tables a writer finds together.


class Shape(NamedTuple):
  """What a file says of the networks before it has any.

  Attributes:
    num_grids: K, 1 to 10.
    step: a thousandth of what an integer stands for, 1 to 10000.
    context: 1 to 4.
    entropy, synthesis: widths between, 1 to 4 of 1 to 64.
    residuals: 0 to 4.
  """

  num_grids: int
  step: int
  context: int
  entropy: tuple[int, ...]
  synthesis: tuple[int, ...]
  residuals: int

  def fit(self) -> Fit:
    """The networks, as they were fitted."""
    return Fit(
      entropy=EntropyNetwork(widths=self.entropy, context=self.context),
      synthesis=Synthesis(widths=self.synthesis, residuals=self.residuals),
      num_grids=self.num_grids,
      step=self.step / _STEP_UNIT,
    )

  def sizes(self) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of each array of the networks by its path, in the order of a file."""
    taps = len(c3.taps_of(self.context))
    found: dict[tuple[str, ...], tuple[int, ...]] = {}
    for name, widths in (
      ("entropy", (taps, *self.entropy, 2)),
      ("synthesis", (self.num_grids, *self.synthesis, 3)),
    ):
      for n, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        found[name, f"layer_{n}", "kernel"] = inputs, outputs
        found[name, f"layer_{n}", "bias"] = (outputs,)
    for n in range(self.residuals):
      found["synthesis", f"residual_{n}_kernel"] = 27, 3
      found["synthesis", f"residual_{n}_bias"] = (3,)
    return found

  def num_symbols(self, height: int, width: int) -> int:
    """Integers of grids and networks together."""
    of_grids = sum(h * w for h, w in c3.grid_shapes(height, width, self.num_grids))
    return of_grids + sum(int(np.prod(size)) for size in self.sizes().values())

  def numbers(self) -> tuple[int, ...]:
    """All of it, as the header of a file has it."""
    widths = len(self.entropy), *self.entropy, len(self.synthesis), *self.synthesis
    return self.num_grids, self.step, self.context, *widths, self.residuals


def shape_from(numbers: Sequence[int]) -> Shape:
  """The shape whose `numbers` these are.

  Raises:
    CodecError: if they are none's.
  """
  left = list(numbers)

  def take(low: int, high: int) -> int:
    if not left or not low <= left[0] <= high:
      raise CodecError("header is not valid: what it says of networks")
    return left.pop(0)

  num_grids, step, context = take(1, 10), take(1, 10_000), take(1, 4)
  entropy, synthesis = (tuple(take(1, 64) for _ in range(take(1, 4))) for _ in range(2))
  residuals = take(0, 4)
  if left:
    raise CodecError("header is not valid: what it says of networks")
  return Shape(num_grids, step, context, entropy, synthesis, residuals)


def shape_of(fit: Fit) -> Shape:
  """The shape of the networks of a fit.

  Raises:
    ValueError: if a file cannot say it.
  """
  step = round(fit.step * _STEP_UNIT)
  if abs(step / _STEP_UNIT - fit.step) > 1e-9:
    raise ValueError(f"a step has thousandths, not {fit.step}")
  found = Shape(
    fit.num_grids,
    step,
    fit.entropy.context,
    tuple(fit.entropy.widths),
    tuple(fit.synthesis.widths),
    fit.synthesis.residuals,
  )
  try:
    return shape_from(found.numbers())
  except CodecError:
    raise ValueError(f"no file has networks of {found}") from None


class Integers(NamedTuple):
  """All that a file holds.

  Attributes:
    steps: which of `STEPS` weights and biases are multiples of.
    arrays: int64 by path.
    grids: int64, the finest first.
  """

  steps: tuple[int, int]
  arrays: Mapping[tuple[str, ...], np.ndarray]
  grids: list[np.ndarray]


def networks_of(steps: tuple[int, int], arrays: Mapping[tuple[str, ...], np.ndarray]) -> Any:
  """The networks as float32, nested."""
  floats = {}
  for path, array in arrays.items():
    step = np.float32(STEPS[steps[array.ndim == 1]])
    floats[path] = array.astype(np.float32) * step
  return unflatten_dict(floats)


def rounded(fit: Fit, params: Any, x: np.ndarray) -> Integers:
  """Fitted parameters as integers, with the steps of the least loss, networks' bits included.

  Args:
    params: of one picture.
    x: the picture [H, W, 3] in [0, 1].

  Raises:
    ValueError: if a parameter is not finite.
  """
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
    raise ValueError("the fit has come to nothing finite")
  flat = {
    path: np.asarray(leaf, np.float64)
    for path, leaf in flatten_dict({k: params[k] for k in ("entropy", "synthesis")}).items()
  }
  size = shape_of(fit).sizes()
  sizes = [grid.shape for grid in params["grids"]]
  flat_grids = np.rint(c3_fit.integers(params["grids"])).astype(np.int64)
  parts = np.split(flat_grids, np.cumsum([h * w for h, w in sizes])[:-1])
  grids = [part.reshape(shape) for part, shape in zip(parts, sizes, strict=True)]
  # Fitted steps do not matter once a picture is here: one program for all.
  plain = dataclasses.replace(fit, noise_steps=0, rounded_steps=0)
  chosen, least = Integers((0, 0), {}, []), np.inf
  raw = [np.asarray(grid)[None] for grid in params["grids"]]
  for of_weights in range(len(STEPS)):
    for of_biases in range(len(STEPS)):
      steps = of_weights, of_biases
      arrays = {
        path: np.rint(flat[path] / STEPS[steps[len(size[path]) == 1]]).astype(np.int64)
        for path in size
      }
      networks = jax.tree.map(lambda leaf: leaf[None], networks_of(steps, arrays))
      found = c3_fit.evaluate(plain, networks | {"grids": raw}, x[None])
      bits = sum(_array_bits(array) for array in arrays.values())
      loss = float(found.loss[0]) + fit.rd_weight * bits / (x.shape[0] * x.shape[1])
      if loss < least:
        chosen, least = Integers(steps, arrays, grids), loss
  return chosen


def encode(shape: Shape, integers: Integers) -> bytes:
  """The bytes of what was fitted."""
  rows = [laplace.centred_row(integers.arrays[path]) for path in shape.sizes()]
  values = [integers.arrays[path].ravel() for path in shape.sizes()]
  repeated = np.repeat(rows, [len(some) for some in values])
  head = bytes([*integers.steps, *(row // laplace.FRACTIONS for row in rows)])
  head += latents.encode(np.concatenate(values), repeated, laplace.tables())
  layers = _exact_layers(shape, networks_of(integers.steps, integers.arrays))
  encoder, escapes = constriction.stream.queue.RangeEncoder(), []
  for grid in reversed(integers.grids):
    tables, nearest = _tables_of_grid(shape, layers, grid)
    waves = np.add.outer((shape.context + 1) * np.arange(len(grid)), np.arange(grid.shape[1]))
    # Line by line, in each table by table, in each from above.
    order = np.lexsort((tables, waves.ravel()))
    symbols = (grid.ravel() - nearest)[order]
    entries = np.where(np.abs(symbols) > latents.REACH, latents.SIZE - 1, symbols + latents.REACH)
    escapes += symbols[np.abs(symbols) > latents.REACH].tolist()
    for start, stop, row in _runs(tables[order], waves.ravel()[order]):
      encoder.encode(entries[start:stop].astype(np.int32), laplace.model(row))
  numbers = [2 * (abs(v) - latents.REACH - 1) + (v < 0) for v in escapes]
  body = varint(len(numbers)) + b"".join(map(varint, numbers))
  return head + body + encoder.get_compressed().astype("<u4").tobytes()


def decode(shape: Shape, data: bytes, height: int, width: int) -> Integers:
  """What `encode` was given; the same integers on every machine.

  Raises:
    CodecError: if the bytes are damaged.
  """
  sizes, view = shape.sizes(), memoryview(data)
  head = data[: 2 + len(sizes)]
  if len(head) < 2 + len(sizes) or max(head[:2]) >= len(STEPS) or max(head[2:]) >= laplace.SCALES:
    raise CodecError("the networks of the picture are damaged")
  rows = np.frombuffer(head[2:], np.uint8).astype(np.int64) * laplace.FRACTIONS
  counts = [int(np.prod(size)) for size in sizes.values()]
  repeated = np.repeat(rows + laplace.FRACTIONS // 2, counts)
  flat, at = latents.decode(data, len(head), repeated, laplace.tables())
  parts = np.split(flat, np.cumsum(counts)[:-1])
  arrays = {path: part.reshape(sizes[path]) for path, part in zip(sizes, parts, strict=True)}
  steps = head[0], head[1]
  layers = _exact_layers(shape, networks_of(steps, arrays))
  count, at = read_varint(view, at, "latents")
  if count > len(data) - at:
    raise CodecError("latents end before their last escape")
  escapes = []
  for _ in range(count):
    value, at = read_varint(view, at, "latents")
    escapes.append((value // 2 + latents.REACH + 1) * (-1 if value % 2 else 1))
  if (len(data) - at) % 4:
    raise CodecError("the grids' words are not whole")
  words = np.frombuffer(data[at:], "<u4").astype(np.uint32)
  decoder, left = constriction.stream.queue.RangeDecoder(words), iter(escapes)
  found = [
    _decoded_grid(shape, layers, size, decoder, left)
    for size in reversed(c3.grid_shapes(height, width, shape.num_grids))
  ]
  if not decoder.maybe_exhausted() or next(left, None) is not None:
    raise CodecError("the grids' words go on after the last integer")
  return Integers(steps, arrays, found[::-1])


def picture(shape: Shape, integers: Integers, height: int, width: int) -> np.ndarray:
  """The picture float32 [H, W, 3] in [0, 1]."""
  networks = networks_of(integers.steps, integers.arrays)
  step = np.float32(shape.step / _STEP_UNIT)
  grids = [grid.astype(np.float32) * step for grid in integers.grids]
  module = shape.fit().synthesis
  return np.asarray(_jit_picture(networks["synthesis"], grids, module, height, width))


def _synthesise(params, grids, module, height, width):
  x = c3.stretched(grids, height, width)
  return jnp.clip(module.apply({"params": params}, x), 0, 1)


_jit_picture = jax.jit(_synthesise, static_argnums=(2, 3, 4))


def _array_bits(values: np.ndarray) -> float:
  """What an array of integers takes under its table."""
  frequencies = np.diff(laplace.tables()[laplace.centred_row(values)])
  outside = np.abs(values) > latents.REACH
  entries = np.where(outside, latents.SIZE - 1, values + latents.REACH)
  return float((latents.PRECISION - np.log2(frequencies[entries])).sum() + 16 * outside.sum())


def _exact_layers(shape: Shape, networks: Any) -> list[Layer]:
  """The entropy network for grids of integers: steps are put into its first and last weights."""
  found = networks["entropy"]
  step = np.float32(shape.step / _STEP_UNIT)
  layers, last = [], len(shape.entropy)
  for n in range(last + 1):
    kernel, bias = found[f"layer_{n}"]["kernel"], found[f"layer_{n}"]["bias"]
    kernel = kernel * step if n == 0 else kernel
    if n == last:
      unit = np.array([1 / step, 1], np.float32)
      kernel, bias = kernel * unit, bias * unit
    layers.append(exact.conv(kernel[None, None], bias))
  return layers


def _tables_at(shape: Shape, layers: list[Layer], contexts: np.ndarray):
  """`(rows, nearest integers)` [N] of `laplace` for contexts [N, taps] of integers."""
  y = contexts * float(UNIT)
  for n, layer in enumerate(layers):
    y = exact.dense(layer, exact.gelu(y) if n else y)
  low, high = (np.rint(-2 * np.log(scale) * UNIT) for scale in (c3.MOST_SCALE, c3.LEAST_SCALE))
  shift = np.rint(2 * np.log(shape.step / _STEP_UNIT) * UNIT)
  precision = np.clip(y[:, 1] + c3.SHIFT * UNIT, low, high) + shift
  return laplace.rows_of(y[:, 0], precision)


def _padded(grid: np.ndarray, context: int) -> np.ndarray:
  return np.pad(grid, ((context, 0), (context, context))).astype(np.float64)


def _offsets(padded: np.ndarray, context: int) -> np.ndarray:
  """Where the taps are in a flat padded grid, as seen from a number."""
  return np.array([row * padded.shape[1] + column for row, column in c3.taps_of(context)])


def _tables_of_grid(shape: Shape, layers: list[Layer], grid: np.ndarray):
  """`_tables_at` for all of a grid that is known, in reading order."""
  height, width = grid.shape
  padded = _padded(grid, shape.context)
  rows, columns = np.divmod(np.arange(height * width), width)
  at = (rows + shape.context) * padded.shape[1] + columns + shape.context
  offsets, flat, found = _offsets(padded, shape.context), padded.ravel(), []
  for start in range(0, len(at), _AT_ONCE):
    places = at[start : start + _AT_ONCE]
    found.append(_tables_at(shape, layers, flat[places[:, None] + offsets]))
  tables, nearest = (np.concatenate(parts) for parts in zip(*found, strict=True))
  return tables, nearest


def _decoded_grid(shape: Shape, layers: list[Layer], size, decoder, escapes: Iterator[int]):
  """The next grid of a stream, line by line."""
  height, width = size
  c, slope = shape.context, shape.context + 1
  padded = _padded(np.zeros(size), c)
  flat, offsets = padded.ravel(), _offsets(padded, c)
  for line in range(width + slope * (height - 1)):
    rows = np.arange(max(0, -(-(line - width + 1) // slope)), min(height - 1, line // slope) + 1)
    if not rows.size:  # A line of a narrow grid may meet none.
      continue
    at = (rows + c) * padded.shape[1] + line - slope * rows + c
    tables, nearest = _tables_at(shape, layers, flat[at[:, None] + offsets])
    order = np.argsort(tables, kind="stable")
    symbols = np.empty(len(at), np.int64)
    for start, stop, row in _runs(tables[order]):
      try:
        found = decoder.decode(laplace.model(row), stop - start)
      except AssertionError as error:  # What constriction raises for impossible data.
        raise CodecError("range coded data is damaged") from error
      symbols[start:stop] = found.astype(np.int64) - latents.REACH
    for place in np.flatnonzero(symbols == latents.SIZE - 1 - latents.REACH):
      escaped = next(escapes, None)
      if escaped is None:
        raise CodecError("an escape of the grids is missing")
      symbols[place] = escaped
    values = nearest[order] + symbols
    if np.abs(values).max(initial=0) > c3_fit.MOST:
      raise CodecError("an integer of the grids is too far from zero")
    flat[at[order]] = values
  return padded[c:, c : c + width].astype(np.int64)


def _runs(*keys: np.ndarray) -> Iterator[tuple[int, int, int]]:
  """`(start, stop, first key)` of each stretch in which all keys stay."""
  changes = np.any([np.diff(key) != 0 for key in keys], axis=0)
  bounds = np.concatenate([[0], np.flatnonzero(changes) + 1, [len(keys[0])]]).tolist()
  for start, stop in itertools.pairwise(bounds):
    yield start, stop, int(keys[0][start])
