"""Reads Lyra V2's released networks: three TensorFlow Lite files in one directory.

The graphs hold no names that last, so their operators are walked in the order in which they run,
and each must be of the kind and shape that the network has there.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec.audio.lyra import SLOPE, Lyra, LyraConfig
from jaxcodec.audio.lyra_exact import LyraExact
from jaxcodec.codec import Codec
from jaxcodec.errors import CodecError
from jaxcodec.functional import integer
from jaxcodec.hub import tflite

FILES = ("soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite")

# What is walked; what else there is moves numbers about.
_ARITHMETIC = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "LEAKY_RELU", "ADD", "SUB")
_VALID = 1  # The schema's Padding.

Params = dict[str, Any]


def is_lyra(directory: pathlib.Path) -> bool:
  return any((directory / name).is_file() for name in FILES)


def load_lyra(directory: pathlib.Path, name: str, *, exact: bool = False) -> Codec:
  """The codec in `directory`.

  Args:
    exact: whether to compute with the files' integers (`LyraExact`) or with floats of their values.

  Raises:
    CodecError: if a file is missing or damaged, or does not hold the network; the message names it.
  """
  module = LyraExact() if exact else Lyra()
  net = module.net
  params = {
    "encoder": _encoder(_Walk(directory / FILES[0], "main", exact), net),
    "quantizer": {"codebooks": _codebooks(directory / FILES[1], module)},
    "decoder": _decoder(_Walk(directory / FILES[2], "main", exact), net),
  }
  prior = jnp.ones((module.num_codebooks, module.codebook_size), jnp.int32)
  return Codec(module=module, params=params, prior=prior, name=name)


def _encoder(walk: "_Walk", net: LyraConfig) -> Params:
  params, last, width = {}, len(net.widths) - 1, 1
  for level in range(last + 1):
    if level:
      leaky = walk.take("LEAKY_RELU")
      if walk.exact and level == last:
        params[f"leaky_{level}"] = _integer_leaky(leaky)
    size, stride, groups = net.kernel_sizes[level], net.strides[level], net.groups[level]
    shape = (size, width // groups, net.widths[level])
    params[f"down_{level}"] = walk.conv(shape, stride, integers=level == last)
    width = net.widths[level]
    for groups, dilation, name in net.units(level):
      params[name] = _unit(walk, width, groups, dilation, _kind(net, level, name, "entering"))
  leaky = walk.take("LEAKY_RELU")
  shape = (net.last_kernel_size, width // net.last_groups, net.features)
  params["conv_out"] = walk.conv(shape, integers=True)
  if walk.exact:
    params["leaky_out"] = _integer_leaky(leaky)
    params["dequantize"] = {"scale": walk.last.scale(walk.last.output)}
  return _arrays(walk.finish(params))


def _decoder(walk: "_Walk", net: LyraConfig) -> Params:
  last, width = len(net.widths) - 1, net.widths[-1]
  shape = (net.last_kernel_size, net.features // net.last_groups, width)
  params: Params = {"conv_in": walk.conv(shape)}
  for level in reversed(range(last + 1)):
    for groups, dilation, name in net.units(level):
      params[name] = _unit(walk, width, groups, dilation, _kind(net, level, name, "leading"))
    leaky = walk.take("LEAKY_RELU")
    features = net.widths[level - 1] if level else 1
    params[f"up_{level}"] = walk.conv_transpose(net, level, width, features)
    if walk.exact and level == last:
      params["quantize"] = _quantization(walk.last, 2)
    elif walk.exact and level == last - 1:
      params[f"leaky_{level}"] = _integer_leaky(leaky)
    width = features
  return _arrays(walk.finish(params))


def _kind(net: LyraConfig, level: int, name: str, first: str) -> str:
  if level < len(net.widths) - 2:
    return "float"
  return first if name.endswith("_0") else "integer"


def _unit(walk: "_Walk", width: int, groups: int, dilation: int, kind: str) -> Params:
  """Parameters of `ResidualUnit`, or if exact of the unit of that kind."""
  leaky_0 = walk.take("LEAKY_RELU")
  params = {"depthwise": walk.depthwise((3, width), dilation, kind in ("leading", "integer"))}
  depthwise = walk.last
  params["conv_0"] = walk.conv((1, width, width), integers=kind in ("leading", "integer"))
  leaky_1 = walk.take("LEAKY_RELU")
  params["conv_1"] = walk.conv((1, width // groups, width), integers=kind != "float")
  conv_1, total = walk.last, walk.take("ADD")
  if not walk.exact or kind == "float":
    return params
  params["leaky_1"] = _integer_leaky(leaky_1)
  if kind == "integer":
    params["leaky_0"] = _integer_leaky(leaky_0)
    return params | _integer_sum(total)
  params["quantize_0"] = _quantization(leaky_1 if kind == "entering" else depthwise, 0)
  params["dequantize"] = {"scale": conv_1.scale(conv_1.output)}
  # The sum is of floats: what it is rounded to stands with what takes it.
  params["quantize_1"] = _quantization(walk.next("LEAKY_RELU"), 0)
  return params


class _Step(NamedTuple):
  """An operator and the tensors it uses."""

  path: pathlib.Path
  graph: tflite.Graph
  operator: tflite.Operator

  def input(self, index: int) -> tflite.Tensor:
    return self._tensor(self.operator.inputs, index)

  @property
  def output(self) -> tflite.Tensor:
    return self._tensor(self.operator.outputs, 0)

  def scale(self, tensor: tflite.Tensor) -> np.float32:
    """The one scale of a tensor of activations."""
    sizes = (tensor.scale.size, tensor.zero_point.size)
    if sizes != (1, 1) or not _usable(tensor.scale) or abs(tensor.zero_point[0]) > 128:
      raise CodecError(f"{self.path} has a {self.operator.name} of an unknown scale")
    return tensor.scale[0]

  def _tensor(self, indices: tuple[int, ...], place: int) -> tflite.Tensor:
    if place >= len(indices) or indices[place] < 0:
      raise CodecError(f"{self.path} has a {self.operator.name} of {len(indices)} tensors")
    return self.graph.tensors[indices[place]]


def _usable(scale: np.ndarray) -> bool:
  """Whether scales are positive and no product of two of them leaves float32."""
  return bool(((scale > 2.0**-60) & (scale < 2.0**60)).all())


class _Walk:
  """Takes the arithmetic of a file's graph, operator by operator.

  Attributes:
    exact: whether integers stay integers.
    last: the convolution that was taken last.
  """

  last: _Step

  def __init__(self, path: pathlib.Path, graph: str, exact: bool):
    self.path, self.exact, self._taken = path, exact, 0
    found = _graph(path, graph)
    known = [op for op in found.operators if op.name in _ARITHMETIC]
    self._steps = [_Step(path, found, op) for op in known]

  def next(self, name: str) -> _Step:
    """The operator that is due; CodecError if it is none of that name."""
    step = self._steps[self._taken] if self._taken < len(self._steps) else None
    if step is None or step.operator.name != name:
      found = step.operator.name if step else "nothing"
      raise self.error(f"a {name} is due, there is {found}")
    if name == "LEAKY_RELU" and abs(step.operator.options["alpha"] - SLOPE) > 1e-6:
      raise self.error(f"its slope is {step.operator.options['alpha']:g}, not {SLOPE}")
    return step

  def take(self, name: str) -> _Step:
    step = self.next(name)
    self._taken += 1
    return step

  def conv(self, shape: tuple[int, ...], stride: int = 1, *, integers: bool = False) -> Params:
    """Parameters of a convolution with a kernel [width, in / groups, out]."""
    width, features_in, features = shape
    self.last = self._window("CONV_2D", stride, 1)
    kernel = self._constant(self.last, 1, (features, width, 1, features_in))
    return self._weights(kernel[:, :, 0].transpose(1, 2, 0), 2, integers)

  def depthwise(self, shape: tuple[int, ...], dilation: int, integers: bool) -> Params:
    """Parameters of a depthwise convolution with a kernel [width, channels]."""
    self.last = self._window("DEPTHWISE_CONV_2D", 1, dilation)
    kernel = self._constant(self.last, 1, (1, shape[0], 1, shape[1]))
    return self._weights(kernel[0, :, 0], 2, integers)

  def conv_transpose(self, net: LyraConfig, level: int, width: int, features: int) -> Params:
    """Parameters of a level's upsampling, which has an operator for each group."""
    size, groups = net.kernel_sizes[level], net.groups[level]
    parts = []
    for _ in range(groups):
      self.last = self._window("TRANSPOSE_CONV", net.strides[level], 1)
      kernel = self._constant(self.last, 1, (features // groups, size, 1, width // groups))
      integers = level >= len(net.widths) - 2
      part = self._weights(kernel[:, :, 0].transpose(1, 2, 0), 3, integers)
      self.take("ADD")
      less = self.take("SUB")
      if self.exact and integers:
        part["scale"] = np.full(features // groups, self.last.scale(self.last.output))
        part["tail_bias"] = self._constant(less, 1, (features // groups,))
      parts.append(part)
    return {key: np.concatenate([part[key] for part in parts], axis=-1) for key in parts[0]}

  def finish(self, params: Params) -> Params:
    if self._taken < len(self._steps):
      raise self.error(f"{self._steps[self._taken].operator.name} is left over")
    return params

  def error(self, what: str) -> CodecError:
    return CodecError(f"{self.path} does not hold Lyra V2: at operator {self._taken}, {what}")

  def _window(self, name: str, stride: int, dilation: int) -> _Step:
    step = self.take(name)
    options = step.operator.options
    found = (options["stride"], options.get("dilation", 1), options["padding"])
    if found != (stride, dilation, _VALID) or options["activation"]:
      raise self.error(f"its stride, dilation and padding are {found}")
    return step

  def _constant(self, step: _Step, index: int, shape: tuple[int, ...]) -> np.ndarray:
    tensor = step.input(index)
    if tensor.data is None or tensor.shape != shape:
      raise self.error(f"its input {index} has shape {tensor.shape}, {shape} needed")
    if not np.isfinite(tensor.data).all():
      raise self.error(f"its input {index} is not finite")
    return tensor.data

  def _weights(self, kernel: np.ndarray, bias_index: int, integers: bool) -> Params:
    """Kernel and bias, the output channels last in both."""
    step, bias = self.last, self._constant(self.last, bias_index, kernel.shape[-1:])
    found = (str(kernel.dtype), str(bias.dtype))
    if found != (("int8", "int32") if integers else ("float32", "float32")):
      raise self.error(f"its weights are {found[0]} and {found[1]}")
    if not integers:
      return {"kernel": kernel, "bias": bias}
    scales = [step.input(i).scale for i in (1, bias_index)]
    if not all(s.size in (1, kernel.shape[-1]) and _usable(s) for s in scales):
      raise self.error(f"its weights have {scales[0].size} and {scales[1].size} scales")
    if not self.exact:
      return {"kernel": kernel * scales[0], "bias": (bias * scales[1]).astype(np.float32)}
    # Stands before the weights or, in a transposed convolution, after them.
    into, out = step.input(2 if bias_index == 3 else 0), step.output
    ratio = np.float64(step.scale(into)), np.float64(step.scale(out))
    factor = ratio[0] * scales[0].astype(np.float64) / ratio[1]
    multiplier, shift = integer.fixed_point(np.broadcast_to(factor, bias.shape))
    zero_point = np.full(bias.shape, out.zero_point[0], np.int32)
    params = {"kernel": kernel, "bias": bias, "multiplier": multiplier, "shift": shift}
    return params | {"zero_point": zero_point}


def _graph(path: pathlib.Path, name: str) -> tflite.Graph:
  for graph in tflite.read_graphs(path):
    if graph.name == name:
      return graph
  raise CodecError(f"{path} has no graph {name!r}")


def _codebooks(path: pathlib.Path, module: Lyra) -> jnp.ndarray:
  """What the quantizer's graph measures the distance to, stage after stage."""
  graph, shape = _graph(path, "encode"), (1, module.codebook_size, module.net.features)
  uses = [op.inputs[1] for op in graph.operators if op.name == "SQUARED_DIFFERENCE"]
  tables = [graph.tensors[index] for index in uses]
  books = [table.data[0] for table in tables if table.data is not None and table.shape == shape]
  if len(books) != module.num_codebooks:
    raise CodecError(f"{path} holds {len(books)} codebooks, {module.num_codebooks} needed")
  stacked = np.stack(books).astype(np.float32)
  if not np.isfinite(stacked).all():
    raise CodecError(f"{path} holds a codebook that is not finite")
  return jnp.asarray(stacked)


def _quantization(step: _Step, index: int) -> Params:
  tensor = step.input(index)
  return {"scale": step.scale(tensor), "zero_point": np.int32(tensor.zero_point[0])}


def _integer_leaky(step: _Step) -> Params:
  into, out = step.scale(step.input(0)), step.scale(step.output)
  slope = np.float32(step.operator.options["alpha"])
  # float32 arithmetic, as in the kernel's preparation.
  multipliers, shifts = integer.fixed_point(np.stack([into / out, into * slope / out]))
  zero_point = np.int32(step.output.zero_point[0])
  return {"multipliers": multipliers, "shifts": shifts, "zero_point": zero_point}


def _integer_sum(step: _Step) -> Params:
  tensors = step.input(0), step.input(1), step.output
  first, second, out = (np.float64(step.scale(tensor)) for tensor in tensors)
  largest = 2 * max(first, second)
  factors = [first / largest, second / largest, largest / (2.0**20 * out)]
  multipliers, shifts = integer.fixed_point(np.stack(factors))
  zero_point = np.int32(step.output.zero_point[0])
  return {"multipliers": multipliers, "shifts": shifts, "zero_point": zero_point}


def _arrays(params: Params) -> Params:
  return jax.tree.map(jnp.asarray, params)
