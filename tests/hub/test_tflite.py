"""The reader on a file made here by hand, on damage to it, and on real ones."""

import json
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxcodec import CodecError
from jaxcodec.hub import tflite


class Vector(bytes):
  """The entries of a vector of numbers of one struct form."""

  form = "B"


class Builder:
  """Writes FlatBuffers: a table is a dict from a field's number to bytes or to what to point to.

  What is pointed to twice is written once.
  """

  def __init__(self):
    self.data, self.later, self.starts = bytearray(struct.pack("<I4s", 0, b"TFL3")), [], {}

  def finish(self, root) -> bytes:
    self.later.append((0, root))
    while self.later:
      place, value = self.later.pop(0)
      if id(value) not in self.starts:
        self.starts[id(value)] = self.write(value)
      struct.pack_into("<I", self.data, place, self.starts[id(value)] - place)
    return bytes(self.data)

  def write(self, value) -> int:
    entries = value
    if isinstance(value, dict):
      entries = [value.get(i) for i in range(max(value, default=-1) + 1)]
      sizes = [0 if v is None else len(v) if type(v) is bytes else 4 for v in entries]
      ends = np.cumsum([4, *sizes]).tolist()
      places = [0 if v is None else end for v, end in zip(entries, ends[:-1], strict=True)]
      head = struct.pack(f"<{len(places) + 2}H", 4 + 2 * len(places), ends[-1], *places)
      self.data += head + struct.pack("<i", len(head))
      start = len(self.data) - 4
    else:
      start = len(self.data)
      size = struct.calcsize(value.form) if isinstance(value, Vector) else 1
      self.data += struct.pack("<I", len(value) // size)
    if isinstance(value, Vector):
      self.data += value
      entries = []
    for v in entries:
      if type(v) is bytes:
        self.data += v
      elif v is not None:
        self.later.append((len(self.data), v))
        self.data += bytes(4)
    return start


def vector(form, *values):
  made = Vector(struct.pack(f"<{len(values)}{form}", *values))
  made.form = form
  return made


def small_model() -> bytes:
  """A strided int8 convolution of one graph, and an operator that is not known."""
  quantization = {2: vector("f", 0.5, 0.25), 3: vector("q", 0, -3)}
  weights = {
    0: vector("i", 2, 3),
    1: struct.pack("<b", 9),
    2: struct.pack("<I", 1),
    3: Vector(b"w"),
    4: quantization,
  }
  conv = {
    1: vector("i", 0, 1, -1),
    2: vector("i", 0),
    4: {2: struct.pack("<i", 7), 0: b"\1"},
  }
  graph = {
    0: [{0: vector("i", 1, 4)}, weights],
    3: [conv, {0: struct.pack("<I", 1)}],
    4: Vector(b"main"),
  }
  codes = [{3: struct.pack("<i", 3)}, {3: struct.pack("<i", 199)}]
  buffers = [{}, {0: vector("b", 1, -2, 3, -4, 5, -6)}]
  return Builder().finish({0: struct.pack("<I", 3), 1: codes, 2: [graph], 4: buffers})


SMALL = small_model()


def test_a_model_made_by_hand_is_read():
  (graph,) = tflite.parse_graphs(SMALL)
  assert graph.name == "main"
  empty, weights = graph.tensors
  assert (empty.shape, empty.dtype, empty.data) == ((1, 4), np.float32, None)
  assert (weights.name, weights.shape) == ("w", (2, 3))
  np.testing.assert_array_equal(weights.data, np.array([[1, -2, 3], [-4, 5, -6]], np.int8))
  assert weights.data.dtype == np.int8
  np.testing.assert_array_equal(weights.scale, [0.5, 0.25])
  np.testing.assert_array_equal(weights.zero_point, [0, -3])
  conv, other = graph.operators
  assert (conv.name, conv.inputs, conv.outputs) == ("CONV_2D", (0, 1, -1), (0,))
  assert conv.options == {"padding": 1, "stride": 7, "activation": 0, "dilation": 1}
  assert (other.name, other.options) == ("", {})


def error_of(data: bytes) -> str:
  """What the reader says of damaged bytes; "" if it can read them."""
  try:
    tflite.parse_graphs(data)
  except CodecError as error:
    return str(error)
  return ""


def test_every_truncation_is_refused_in_one_line():
  for length in range(len(SMALL)):
    assert len(error_of(SMALL[:length]).splitlines()) == 1, length


@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=4))
@settings(max_examples=300, deadline=None)
def test_flipped_bytes_are_read_or_refused_in_one_line(flips):
  data = bytearray(SMALL)
  for place, value in flips:
    data[place] = value
  assert len(error_of(bytes(data)).splitlines()) <= 1


def test_tables_that_share_one_place_do_not_take_for_ever():
  # Two thousand graphs that are one, of two thousand tensors that are one, in 16 kB.
  tensor = {0: vector("i", 1)}
  graph = {0: [tensor] * 2000}
  data = Builder().finish({2: [graph] * 2000, 4: [{}]})
  assert len(data) < 20_000
  start = time.monotonic()
  with pytest.raises(CodecError, match="its parts overlap"):
    tflite.parse_graphs(data)
  assert time.monotonic() - start < 5


def test_what_is_no_model_is_named(tmp_path):
  with pytest.raises(CodecError, match=r"holds no x\.tflite"):
    tflite.read_graphs(tmp_path / "x.tflite")
  (tmp_path / "x.tflite").write_bytes(b"RIFF" + bytes(40))
  with pytest.raises(CodecError, match=r"x\.tflite is no TensorFlow Lite model.*TFL3"):
    tflite.read_graphs(tmp_path / "x.tflite")


@pytest.mark.parametrize("name", ["soundstream_encoder", "quantizer", "lyragan"])
def test_real_files_are_read_as_another_reader_read_them(data, name):
  want = json.loads((data / "lyra" / "lyra_graphs.json").read_text())[name]
  with np.load(data / "lyra" / "lyra_tensors.npz") as file:
    arrays = dict(file)
  graphs = tflite.read_graphs(data / "lyra" / f"{name}.tflite")
  assert [g.name for g in graphs] == [w["name"] for w in want]
  for graph, other in zip(graphs, want, strict=True):
    for tensor, known in zip(graph.tensors, other["tensors"], strict=True):
      assert list(tensor.shape) == known["shape"]
      if known.get("const"):
        np.testing.assert_array_equal(tensor.data, arrays[known["const"]])
      scale = known.get("scale", [])
      scale = arrays[scale] if isinstance(scale, str) else np.float32(scale)
      np.testing.assert_array_equal(tensor.scale, scale)
    for operator, known in zip(graph.operators, other["ops"], strict=True):
      assert operator.name in ("", known["op"])
      assert list(operator.inputs) == known["inputs"]
      assert list(operator.outputs) == known["outputs"]
      if "stride" in operator.options:
        assert operator.options["stride"] == known["StrideH"]
        assert operator.options.get("dilation", 1) == known.get("DilationHFactor", 1)
