"""Directories as authors publish them: their configuration, and one file of weights."""

import pathlib
from typing import Any

import numpy as np

from jaxcodec.errors import CodecError
from jaxcodec.hub.checkpoint import Tensors
from jaxcodec.hub.torch_archive import read_torch

# What `torch.save` writes begins as every zip archive does.
_ARCHIVE = b"PK\x03\x04"


def read_weights(directory: pathlib.Path, wanted: tuple[str, ...]) -> Tensors:
  """The arrays whose names start with one of `wanted`, those of nested dicts joined by dots.

  They are read from `model.safetensors` if there is one, else from the one file of `torch.save`,
  whatever it is called; nothing in it is run. A `state_dict`, as PyTorch Lightning writes it among
  the state of a run, is taken for all.

  Raises:
    CodecError: if there is none or several, or it holds what `read_torch` refuses.
  """
  if (directory / "model.safetensors").is_file():
    tensors = Tensors(directory)
    tensors.keep(wanted)
    return tensors
  found = [path for path in sorted(directory.iterdir()) if path.is_file() and _is_archive(path)]
  if not found:
    return Tensors(directory)  # Says what is there instead.
  if len(found) > 1:
    names = ", ".join(path.name for path in found)
    raise CodecError(f"{directory} holds several checkpoints, {names}: leave one")
  content = read_torch(found[0])
  if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
    content = content["state_dict"]
  tensors = Tensors(found[0], dict(flat_arrays(content)))
  tensors.keep(wanted)
  return tensors


def _is_archive(path: pathlib.Path) -> bool:
  with open(path, "rb") as file:
    return file.read(4) == _ARCHIVE


def flat_arrays(content: Any, prefix: str = "", depth: int = 8):
  """`(name, array)` of nested dicts, names joined by dots; what else they hold is no weight."""
  if isinstance(content, np.ndarray):
    yield prefix, content
  elif isinstance(content, dict) and depth:
    for key, value in content.items():
      yield from flat_arrays(value, f"{prefix}.{key}" if prefix else str(key), depth - 1)
