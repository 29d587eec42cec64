"""Reads TensorFlow Lite models: the tensors and operators in a `.tflite` file, without TensorFlow.

The file is a FlatBuffer: tables that point to a list of their fields' places (vtable), vectors that
start with their length, both anywhere in the file. Here every place is checked before it is read,
and work is counted, because a damaged file may point many tables to one place.
Source: tensorflow/compiler/mlir/lite/schema/schema.fbs; flatbuffers.dev, "FlatBuffer Internals".
"""

import dataclasses
import math
import pathlib
import struct
from typing import Any

import numpy as np

from jaxcodec.errors import CodecError

# Numbers of the schema's TensorType and BuiltinOperator that are known here.
_DTYPES: dict[int, str] = {
  0: "<f4",
  1: "<f2",
  2: "<i4",
  3: "u1",
  4: "<i8",
  6: "?",
  7: "<i2",
  9: "i1",
  10: "<f8",
}
_OPERATORS = {
  0: "ADD",
  2: "CONCATENATION",
  3: "CONV_2D",
  4: "DEPTHWISE_CONV_2D",
  6: "DEQUANTIZE",
  22: "RESHAPE",
  41: "SUB",
  45: "STRIDED_SLICE",
  49: "SPLIT",
  67: "TRANSPOSE_CONV",
  98: "LEAKY_RELU",
  99: "SQUARED_DIFFERENCE",
  114: "QUANTIZE",
}
# Options of an operator: name, number of the field, format, and what stands for an absent field.
# Time is the height of these images of width one.
_OPTIONS: dict[str, tuple[tuple[str, int, str, float], ...]] = {
  "CONV_2D": (
    ("padding", 0, "b", 0),
    ("stride", 2, "i", 0),
    ("activation", 3, "b", 0),
    ("dilation", 5, "i", 1),
  ),
  "DEPTHWISE_CONV_2D": (
    ("padding", 0, "b", 0),
    ("stride", 2, "i", 0),
    ("activation", 4, "b", 0),
    ("dilation", 6, "i", 1),
  ),
  "TRANSPOSE_CONV": (("padding", 0, "b", 0), ("stride", 2, "i", 0), ("activation", 3, "b", 0)),
  "LEAKY_RELU": (("alpha", 0, "f", 0),),
}


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor of a graph.

  Attributes:
    name, shape: as the file has them.
    dtype: None for a type that is not read, such as a resource.
    scale: float32 `[n]`, value = scale * (integer - zero_point); empty if it is not quantized.
    zero_point: int64 `[n]`.
    data: the constant's array, or None.
  """

  name: str
  shape: tuple[int, ...]
  dtype: np.dtype | None
  scale: np.ndarray
  zero_point: np.ndarray
  data: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Operator:
  """A step of a graph: its name in the schema ("" if not known here), tensors, and options."""

  name: str
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  options: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Graph:
  """A subgraph: tensors, and operators in the order in which they run."""

  name: str
  tensors: tuple[Tensor, ...]
  operators: tuple[Operator, ...]


def read_graphs(path: pathlib.Path) -> tuple[Graph, ...]:
  """The subgraphs of a `.tflite` file.

  Raises:
    CodecError: if the file is missing, damaged or something else; the message names it.
  """
  try:
    data = path.read_bytes()
  except FileNotFoundError:
    raise CodecError(f"{path.parent} holds no {path.name}") from None
  except OSError as error:
    raise CodecError(f"{path} cannot be read: {error.strerror}") from None
  try:
    return parse_graphs(data)
  except CodecError as error:
    raise CodecError(f"{path} is no TensorFlow Lite model that can be read: {error}") from None


def parse_graphs(data: bytes) -> tuple[Graph, ...]:
  """As `read_graphs`, of a file's bytes."""
  file = _File(data)
  if data[4:8] != b"TFL3":
    raise CodecError("it lacks the mark TFL3")
  model = _Table(file, file.offset(0))
  codes = [_operator_name(table) for table in model.tables(1)]
  buffers = [table.bytes(0) for table in model.tables(4)]
  return tuple(_graph(table, codes, buffers) for table in model.tables(2))


def _operator_name(table: "_Table") -> str:
  # Numbers above 127 did not fit the older field.
  return _OPERATORS.get(max(table.number(0, "b", 0), table.number(3, "i", 0)), "")


def _graph(table: "_Table", codes: list[str], buffers: list[memoryview]) -> Graph:
  tensors = tuple(_tensor(t, buffers) for t in table.tables(0))
  operators = tuple(_operator(t, codes, len(tensors)) for t in table.tables(3))
  return Graph(table.string(4), tensors, operators)


def _tensor(table: "_Table", buffers: list[memoryview]) -> Tensor:
  name, index = table.string(3), table.number(2, "I", 0)
  shape = tuple(int(size) for size in table.vector(0, "<i4"))
  code = table.number(1, "b", 0)
  dtype = np.dtype(_DTYPES[code]) if code in _DTYPES else None
  if len(shape) > 8 or min(shape, default=0) < 0:
    raise CodecError(f"tensor {name!r} has an impossible shape")
  if index >= len(buffers):
    raise CodecError(f"tensor {name!r} is in buffer {index} of {len(buffers)}")
  raw, array = buffers[index], None
  if dtype is not None and len(raw):
    if math.prod(shape) * dtype.itemsize != len(raw):
      raise CodecError(f"tensor {name!r} of shape {shape} has {len(raw)} bytes")
    array = np.frombuffer(raw, dtype).reshape(shape)
  quantization = table.table(4)
  scale, zero_point = np.zeros(0, np.float32), np.zeros(0, np.int64)
  if quantization is not None:
    scale = quantization.vector(2, "<f4").astype(np.float32)
    zero_point = quantization.vector(3, "<i8").astype(np.int64)
  return Tensor(name, shape, dtype, scale, zero_point, array)


def _operator(table: "_Table", codes: list[str], num_tensors: int) -> Operator:
  index = table.number(0, "I", 0)
  if index >= len(codes):
    raise CodecError(f"an operator is number {index} of {len(codes)}")
  ends = [tuple(int(i) for i in table.vector(field, "<i4")) for field in (1, 2)]
  if any(not -1 <= i < num_tensors for end in ends for i in end):
    raise CodecError(f"an operator uses a tensor that is not among the {num_tensors}")
  options, known = table.table(4), _OPTIONS.get(codes[index], ())
  values = {
    name: default if options is None else options.number(field, form, default)
    for name, field, form, default in known
  }
  return Operator(codes[index], ends[0], ends[1], values)


class _File:
  """Bytes, read only where they are, and no more often than a sound file needs."""

  def __init__(self, data: bytes):
    self.data = memoryview(data)
    self._work_left = len(data)

  def number(self, place: int, form: str) -> Any:
    if not 0 <= place <= len(self.data) - struct.calcsize(form):
      raise CodecError(f"it points to byte {place} of {len(self.data)}")
    return struct.unpack_from("<" + form, self.data, place)[0]

  def offset(self, place: int) -> int:
    """The place that the offset at `place` points to."""
    return place + self.number(place, "I")

  def count(self, work: int) -> None:
    """CodecError if all tables and vector entries together exceed the file's bytes."""
    self._work_left -= work
    if self._work_left < 0:
      raise CodecError("its parts overlap")


class _Table:
  """A FlatBuffer table; its fields are asked for by their number in the schema."""

  def __init__(self, file: _File, place: int):
    file.count(4)
    self.file, self.place = file, place
    self._vtable = place - file.number(place, "i")
    self._size = file.number(self._vtable, "H")

  def number(self, field: int, form: str, default: Any) -> Any:
    place = self._find(field)
    return default if place is None else self.file.number(place, form)

  def table(self, field: int) -> "_Table | None":
    place = self._find(field)
    return None if place is None else _Table(self.file, self.file.offset(place))

  def tables(self, field: int) -> list["_Table"]:
    start, count = self._vector(field, 4)
    return [_Table(self.file, self.file.offset(start + 4 * i)) for i in range(count)]

  def vector(self, field: int, dtype: str) -> np.ndarray:
    size = np.dtype(dtype).itemsize
    start, count = self._vector(field, size)
    self.file.count(size * count)
    return np.frombuffer(self.file.data[start : start + size * count], dtype)

  def bytes(self, field: int) -> memoryview:
    start, count = self._vector(field, 1)
    return self.file.data[start : start + count]

  def string(self, field: int) -> str:
    start, count = self._vector(field, 1)
    self.file.count(count)
    return str(self.file.data[start : start + count], "utf-8", "replace")

  def _find(self, field: int) -> int | None:
    entry = 4 + 2 * field
    if entry + 2 > self._size:
      return None
    within = self.file.number(self._vtable + entry, "H")
    return self.place + within if within else None

  def _vector(self, field: int, size: int) -> tuple[int, int]:
    """Where a vector's entries start, and how many there are; none if the field is absent."""
    place = self._find(field)
    if place is None:
      return 0, 0
    place = self.file.offset(place)
    count = self.file.number(place, "I")
    if count * size > len(self.file.data) - place - 4:
      raise CodecError(f"it has {count} entries at byte {place} of {len(self.file.data)}")
    return place + 4, count
