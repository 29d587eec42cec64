"""Reads what `torch.save` writes, without PyTorch and without running what a pickle says.

The file is a zip archive: `data.pkl`, a pickle whose tensors point to storages, and each storage's
bytes in `data/KEY`. The pickle's opcodes are interpreted here, and only those that nested dicts,
lists, tuples, strings, numbers and tensors need. Source: torch/serialization.py; pickletools.py.
"""

import dataclasses
import io
import math
import pathlib
import pickletools
import struct
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from jaxcodec.errors import CodecError

_STORAGES = {
  "torch.DoubleStorage": np.float64,
  "torch.FloatStorage": np.float32,
  "torch.ComplexFloatStorage": np.complex64,
  "torch.HalfStorage": np.float16,
  "torch.BFloat16Storage": ml_dtypes.bfloat16,
  "torch.LongStorage": np.int64,
  "torch.IntStorage": np.int32,
}

_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT = ("BINPUT", "LONG_BINPUT", "MEMOIZE")
_GET = ("BINGET", "LONG_BINGET")
_OTHERS = (
  *("PROTO", "FRAME", "STOP", "MARK", "TUPLE", "EMPTY_DICT", "SETITEM", "SETITEMS"),
  *("EMPTY_LIST", "APPEND", "APPENDS", "GLOBAL", "STACK_GLOBAL", "BINPERSID", "REDUCE", "BUILD"),
)
_READ = {*_VALUES, *_LITERALS, *_TUPLES, *_PUT, *_GET, *_OTHERS}
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


@dataclasses.dataclass(frozen=True)
class _Global:
  """A name that the pickle would have imported."""

  name: str


_MARK = object()
_ORDERED_DICT = _Global("collections.OrderedDict")
_TENSOR = _Global("torch._utils._rebuild_tensor_v2")


def read_torch(path: pathlib.Path) -> Any:
  """The value in a file that `torch.save` wrote, its tensors as read-only NumPy arrays.

  Raises:
    CodecError: if the file is damaged, or holds what no plain value or tensor needs; the message
      names the opcode or the import. Memory stays within a few times the file's size.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      return _read(archive, path)
  except FileNotFoundError:
    raise CodecError(f"no file {path}") from None
  except (
    zipfile.BadZipFile,
    NotImplementedError,  # A compression or a version that zipfile lacks.
    RuntimeError,  # An encrypted member.
    OSError,
    EOFError,
    ValueError,
    struct.error,
  ) as error:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise CodecError(f"{path} is not a file that torch.save wrote: {reason}") from None


def _read(archive: zipfile.ZipFile, path: pathlib.Path) -> Any:
  members = {info.filename: info for info in archive.infolist()}
  # Else a small file could claim a large member, or many that share their bytes.
  if sum(info.file_size for info in members.values()) > path.stat().st_size:
    raise CodecError(f"{path} claims to hold more than its size")
  if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
    raise CodecError(f"{path} is compressed, which torch.save does not do")
  pickles = [name for name in members if name.endswith("/data.pkl")]
  if len(pickles) != 1:
    raise CodecError(f"{path} holds no data.pkl: torch.save did not write it")
  folder = pickles[0].removesuffix("data.pkl")
  order = folder + "byteorder"
  if order in members and archive.read(order) != b"little":
    raise CodecError(f"{path} is not in little-endian order")
  return _Interpreter(archive, folder, path).run(archive.read(pickles[0]))


class _Interpreter:
  """A pickle machine that knows dicts, lists, tuples, plain values and tensors."""

  def __init__(self, archive: zipfile.ZipFile, folder: str, path: pathlib.Path):
    self.archive, self.folder, self.path = archive, folder, path
    self.stack: list[Any] = []
    self.memo: dict[int, Any] = {}
    self.storages: dict[str, np.ndarray] = {}
    self.result: Any = None
    self.room = path.stat().st_size

  def run(self, data: bytes) -> Any:
    """The value that the stream describes."""
    stream = io.BytesIO(data)
    while code := stream.read(1):
      name = _OPCODES[code].name if code in _OPCODES else repr(code)
      if name not in _READ:
        raise CodecError(f"{self.path}: its pickle has an opcode that is not read, {name}")
      reader = _OPCODES[code].arg
      self._step(name, reader.reader(stream) if reader else None)
      if name == "STOP":
        return self.result
    raise self._damaged("it has no end")

  def _step(self, name: str, argument) -> None:
    stack = self.stack
    if name in _LITERALS:
      stack.append(argument)
    elif name in _VALUES:
      stack.append(_VALUES[name])
    elif name == "MARK":
      stack.append(_MARK)
    elif name == "EMPTY_DICT":
      stack.append({})
    elif name == "EMPTY_LIST":
      stack.append([])
    elif name in _TUPLES:
      stack.append(tuple(reversed([self._pop() for _ in range(_TUPLES[name])])))
    elif name == "TUPLE":
      stack.append(tuple(self._pop_marked()))
    elif name in _PUT:
      self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self._top(object)
    elif name in _GET:
      if argument not in self.memo:
        raise self._damaged(f"{name} of nothing")
      stack.append(self.memo[argument])
    elif name in ("APPEND", "APPENDS"):
      items = [self._pop()] if name == "APPEND" else self._pop_marked()
      self._top(list).extend(items)
    elif name in ("SETITEM", "SETITEMS"):
      items = [self._pop(), self._pop()][::-1] if name == "SETITEM" else self._pop_marked()
      self._set_items(self._top(dict), items)
    elif name == "GLOBAL":
      stack.append(self._known(argument.replace(" ", ".")))
    elif name == "STACK_GLOBAL":
      attribute, module = self._pop(), self._pop()
      if not isinstance(attribute, str) or not isinstance(module, str):
        raise self._damaged("an import without a name")
      stack.append(self._known(f"{module}.{attribute}"))
    elif name == "BINPERSID":
      stack.append(self._storage(self._pop()))
    elif name == "REDUCE":
      arguments, function = self._pop(), self._pop()
      stack.append(self._called(function, arguments))
    elif name == "BUILD":
      # The attributes of a state dict: versions of its modules.
      self._pop()
      self._top(dict)
    elif name == "STOP":
      self.result = self._pop()

  def _damaged(self, what: str) -> CodecError:
    return CodecError(f"{self.path}: its pickle is damaged: {what}")

  def _pop(self) -> Any:
    if not self.stack or self.stack[-1] is _MARK:
      raise self._damaged("it takes more than it made")
    return self.stack.pop()

  def _pop_marked(self) -> list[Any]:
    items: list[Any] = []
    while self.stack:
      item = self.stack.pop()
      if item is _MARK:
        return items[::-1]
      items.append(item)
    raise self._damaged("a mark is missing")

  def _top(self, kind: type) -> Any:
    if not self.stack or self.stack[-1] is _MARK or not isinstance(self.stack[-1], kind):
      raise self._damaged(f"no {kind.__name__} where one is filled")
    return self.stack[-1]

  def _set_items(self, target: dict, items: list[Any]) -> None:
    if len(items) % 2:
      raise self._damaged("a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
      if not isinstance(key, (str, int)):
        raise self._damaged("a key that is neither a string nor a number")
      target[key] = value

  def _known(self, name: str) -> _Global:
    if name not in _STORAGES and _Global(name) not in (_ORDERED_DICT, _TENSOR):
      raise CodecError(f"{self.path}: its pickle imports {name[:80]!r}, which is not read")
    return _Global(name)

  def _called(self, function, arguments) -> Any:
    if isinstance(function, _Global) and isinstance(arguments, tuple):
      if function == _ORDERED_DICT and not arguments:
        return {}
      if function == _TENSOR and len(arguments) in (6, 7):
        return self._tensor(*arguments[:4])
    raise self._damaged("a call that is not read")

  def _storage(self, identity) -> np.ndarray:
    """The array of a persistent id: ("storage", type, key, device, number of elements)."""
    match identity:
      case ("storage", _Global(name), str(key), str(), int(size)) if name in _STORAGES:
        dtype = np.dtype(_STORAGES[name])
      case _:
        raise self._damaged("a storage that is not described as torch.save does")
    if key not in self.storages:
      try:
        data = self.archive.read(f"{self.folder}data/{key}")
      except KeyError:
        raise CodecError(f"{self.path} lacks the storage {key[:80]!r}") from None
      if len(data) != size * dtype.itemsize:
        raise self._damaged(f"storage {key[:80]!r} is not of {size} elements")
      self.storages[key] = np.frombuffer(data, dtype)
    if self.storages[key].dtype != dtype:
      raise self._damaged(f"storage {key[:80]!r} has two types")
    return self.storages[key]

  def _tensor(self, storage, offset, shape, strides) -> np.ndarray:
    """A view of a storage; all together are no larger than the file."""
    good = isinstance(storage, np.ndarray) and isinstance(shape, tuple)
    good = good and isinstance(strides, tuple) and len(shape) == len(strides) <= 8
    # A bool is an int to Python.
    if not good or not all(type(n) is int and 0 <= n < 2**48 for n in (offset, *shape, *strides)):
      raise self._damaged("a tensor that is not described as torch.save does")
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if count and last >= storage.size:
      raise self._damaged("a tensor larger than its storage")
    self.room -= count * storage.itemsize
    if self.room < 0:
      raise self._damaged("tensors that hold more than the file")
    if not count:
      return np.zeros(shape, storage.dtype)
    step = storage.itemsize
    return np.lib.stride_tricks.as_strided(
      storage[offset:], shape, [step * s for s in strides], writeable=False
    )
