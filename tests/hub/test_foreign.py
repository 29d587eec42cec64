"""What may run code when it is read is refused, with a line that says how to convert it."""

import pickle
import zipfile

import numpy as np
import pytest

import jaxcodec

PICKLE = "is a pickle, which may run what it likes when it is read, and is not read; convert it: "
TORCH = "safetensors.torch.save_file(torch.load('{}', weights_only=True), 'model.safetensors')"
NUMPY = "safetensors.numpy.save_file(dict(numpy.load('{}')), 'model.safetensors')"


class Trap:
  """Would leave a file behind if it were unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return open, (str(self.path), "w")


def error_of(path):
  with pytest.raises(jaxcodec.CodecError) as caught:
    jaxcodec.load(path)
  assert len(str(caught.value).splitlines()) == 1
  return str(caught.value)


@pytest.mark.parametrize("name", ["model.pt", "codec.pkl", "w.ckpt", "w.bin", "w.pickle", "noname"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_is_refused_and_not_run(tmp_path, name, zipped):
  path, sprung = tmp_path / name, tmp_path / "sprung"
  data = pickle.dumps(Trap(sprung), protocol=2)
  if zipped:
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("archive/data.pkl", data)
  else:
    path.write_bytes(data)
  assert error_of(path) == f"{name} {PICKLE}{TORCH.format(name)}"
  message = error_of(tmp_path)
  assert "holds no config.json" in message
  assert (TORCH.format(name) in message) == (name != "noname")
  (tmp_path / "config.json").write_text('{"model_type": "dac"}')
  assert PICKLE in error_of(tmp_path) or name == "noname"
  assert not sprung.exists()


def test_arrays_of_numpy_are_refused_with_objects_or_without(tmp_path):
  sprung = tmp_path / "sprung"
  np.savez(tmp_path / "objects.npz", a=np.array([Trap(sprung)], dtype=object))
  np.savez(tmp_path / "plain.npz", a=np.zeros(3))
  np.save(tmp_path / "one.npy", np.zeros(3))
  for name in ("objects.npz", "plain.npz", "one.npy"):
    message = error_of(tmp_path / name)
    assert f"{name} is an archive of NumPy arrays" in message
    assert NUMPY.format(name) in message
  assert not sprung.exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"{}", b"RIFF"])
def test_any_other_file_is_no_directory_of_a_codec(tmp_path, content):
  for name, words in (
    ("model.onnx", "give the one that holds its config.json"),
    ("model.safetensors", "model.safetensors is not a safetensors file of a codec"),
  ):
    (tmp_path / name).write_bytes(content)
    assert words in error_of(tmp_path / name)
