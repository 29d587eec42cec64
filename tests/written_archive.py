"""Files as `torch.save` writes them, made without PyTorch."""

import struct
import zipfile

import numpy as np


class Archive:
  """What `torch.save` would write, with a pickle of protocol 2."""

  def __init__(self):
    self.storages = []

  def write(self, path, value):
    stream = b"\x80\x02" + self.pickled(value) + b"."
    self.write_stream(path, stream)
    return stream

  def write_stream(self, path, stream):
    with zipfile.ZipFile(path, "w") as file:
      file.writestr("weights/data.pkl", stream)
      file.writestr("weights/byteorder", b"little")
      for key, data in enumerate(self.storages):
        file.writestr(f"weights/data/{key}", data)
      file.writestr("weights/version", b"3\n")

  def pickled(self, value) -> bytes:
    match value:
      case None:
        return b"N"
      case bool():
        return b"\x88" if value else b"\x89"
      case int():
        return b"J" + struct.pack("<i", value)
      case float():
        return b"G" + struct.pack(">d", value)
      case str():
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
      case tuple():
        return b"(" + b"".join(map(self.pickled, value)) + b"t"
      case list():
        return b"](" + b"".join(map(self.pickled, value)) + b"e"
      case dict():
        items = b"".join(self.pickled(k) + self.pickled(v) for k, v in value.items())
        return b"}(" + items + b"u"
      case np.ndarray():
        return self.tensor(value)
    raise TypeError(type(value))

  def tensor(self, array) -> bytes:
    self.storages.append(array.tobytes())
    storage = b"(" + self.pickled("storage") + b"ctorch\nFloatStorage\n"
    storage += self.pickled(str(len(self.storages) - 1)) + self.pickled("cpu")
    storage += self.pickled(array.size) + b"tQ"
    strides = tuple(s // array.itemsize for s in array.strides)
    rest = b"".join(map(self.pickled, (0, array.shape, strides, False)))
    return (
      b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"ccollections\nOrderedDict\n)RtR"
    )
