"""Weights that are not read, as reading them may run what they say, and how to convert them."""

import pathlib

from jaxcodec.errors import CodecError

_NUMPY = (
  "an archive of NumPy arrays",
  "safetensors.numpy.save_file(dict(numpy.load({0!r})), {1!r})",
)
_PICKLE = (
  "a pickle, which may run what it likes when it is read",
  "safetensors.torch.save_file(torch.load({0!r}, weights_only=True), {1!r})",
)
_KINDS = {
  ".npz": _NUMPY,
  ".npy": _NUMPY,
  ".bin": _PICKLE,
  ".ckpt": _PICKLE,
  ".joblib": _PICKLE,
  ".pickle": _PICKLE,
  ".pkl": _PICKLE,
  ".pt": _PICKLE,
  ".pth": _PICKLE,
}


def find(directory: pathlib.Path) -> pathlib.Path | None:
  """The first file of weights in a directory that is not read."""
  return next((path for path in sorted(directory.iterdir()) if path.suffix in _KINDS), None)


def refusal(path: pathlib.Path) -> CodecError:
  """Says why a file is not read, and what makes a file of it that is."""
  try:
    with open(path, "rb") as file:
      start = file.read(8)
  except OSError as error:
    return CodecError(f"{path} cannot be read: {error.strerror}")
  kind = _KINDS.get(path.suffix)
  # By the first bytes too: a pickle of protocol 2 or later, the zip archive of `torch.save`.
  if kind is None and (
    start.startswith(b"PK\x03\x04") or (len(start) > 1 and start[0] == 0x80 and start[1] < 9)
  ):
    kind = _PICKLE
  if kind is None and start.startswith(b"\x93NUMPY"):
    kind = _NUMPY
  if kind is None:
    return CodecError(f"{path} is no directory of a codec: give the one that holds its config.json")
  what, how = kind
  converted = how.format(path.name, "model.safetensors")
  return CodecError(f"{path.name} is {what}, and is not read; convert it: {converted}")
