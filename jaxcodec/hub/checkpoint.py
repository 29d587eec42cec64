"""Reading a directory's config.json and model.safetensors, with errors that name what is wrong."""

import dataclasses
import json
import pathlib
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import safetensors

from jaxcodec.errors import CodecError
from jaxcodec.hub import foreign


def read_config(directory: pathlib.Path) -> dict[str, Any]:
  """The JSON object in `config.json`."""
  path = directory / "config.json"
  try:
    config = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    other = foreign.find(directory)
    reason = f": {foreign.refusal(other)}" if other is not None else ""
    raise CodecError(f"{directory} holds no config.json{reason}") from None
  except (OSError, ValueError, RecursionError) as error:
    raise CodecError(f"{path} cannot be read: {error}") from None
  if not isinstance(config, dict):
    raise CodecError(f"{path} is not a JSON object")
  return config


class Tensors:
  """Arrays to be taken once each by name and shape: those of a directory's safetensors file `name`,
  or `arrays` that were read from the file `path`."""

  def __init__(
    self,
    path: pathlib.Path,
    arrays: Mapping[str, np.ndarray] | None = None,
    name: str = "model.safetensors",
  ):
    self.path = path
    self._shape: Callable[[str], tuple[int, ...]]
    self._array: Callable[[str], np.ndarray]
    if arrays is not None:
      self._shape = lambda name: arrays[name].shape
      self._array = lambda name: arrays[name]
      self._left = set(arrays)
      return
    self.path = path / name
    if not self.path.is_file():
      other = foreign.find(path)
      if other is not None:
        raise CodecError(f"{path} holds no {name}: {foreign.refusal(other)}")
      raise CodecError(f"{path} holds no {name}")

    def opened():
      return safetensors.safe_open(self.path, framework="numpy")

    def array(name: str) -> np.ndarray:
      # The whole file is mapped while it is open: held open, it would be in memory a second time.
      with opened() as file:
        return file.get_tensor(name)

    try:
      with opened() as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
      raise CodecError(f"{self.path} is not a safetensors file: {error}") from None
    self._shape, self._array, self._left = shapes.__getitem__, array, set(shapes)

  def __contains__(self, name: str) -> bool:
    return name in self._left

  def shape(self, name: str) -> tuple[int, ...]:
    """The shape of an array that is there."""
    return self._shape(name)

  def take(self, name: str, shape: tuple[int, ...], dtype=np.float32) -> np.ndarray:
    """The array `name`; CodecError if it is missing or of another shape."""
    if name not in self._left:
      raise CodecError(f"{self.path} lacks the weight {name}")
    found = self._shape(name)
    if found != tuple(shape):
      raise CodecError(f"weight {name} in {self.path} has shape {found}, {tuple(shape)} needed")
    self._left.discard(name)
    array = self._array(name).astype(dtype, copy=False)
    if not np.isfinite(array).all():
      raise CodecError(f"weight {name} in {self.path} is not finite")
    return array

  def ignore(self, name: str) -> None:
    """Passes over an array that is known and not needed."""
    self._left.discard(name)

  def drop(self, prefixes: tuple[str, ...]) -> None:
    """Passes over all arrays whose names start with one of `prefixes`."""
    self._left = {name for name in self._left if not name.startswith(prefixes)}

  def keep(self, prefixes: tuple[str, ...]) -> None:
    """Passes over all arrays but those whose names start with one of `prefixes`."""
    self._left = {name for name in self._left if name.startswith(prefixes)}

  def finish(self) -> None:
    """CodecError if an array was not taken."""
    if self._left:
      name = min(self._left)
      more = f" and {len(self._left) - 1} more" if len(self._left) > 1 else ""
      raise CodecError(f"{self.path} has a weight that this codec does not: {name}{more}")


def check_like(value, default, what: str) -> None:
  """CodecError, `what` named, unless `value` is of the type of `default` and of a sensible size."""
  if isinstance(default, list):
    good = isinstance(value, list) and 0 < len(value) < 100
    good = good and all(type(v) is int and 0 < v < 10_000 for v in value)
  elif isinstance(default, bool):
    good = isinstance(value, bool)
  else:
    good = type(value) is int and 1 <= value < 10**7
  if not good:
    raise CodecError(f"{what} cannot be {value!r}")


def folded_weight(tensors: Tensors, name: str, shape: tuple[int, ...]) -> np.ndarray:
  """The kernel [out, in, taps], or [in, out, taps] if transposed, whose names start with `name`.

  It is g * v / |v|, with a norm for each index of the first axis, in either of PyTorch's namings;
  or an array of its own.
  """
  new = name + "parametrizations.weight.original"
  for g_name, v_name in ((new + "0", new + "1"), (name + "weight_g", name + "weight_v")):
    if g_name in tensors or v_name in tensors:
      g = tensors.take(g_name, (shape[0], 1, 1))
      v = tensors.take(v_name, shape)
      norm = np.sqrt(np.sum(v.astype(np.float64) ** 2, axis=(1, 2), keepdims=True))
      return (g * v / np.maximum(norm, 1e-30)).astype(np.float32)
  return tensors.take(name + "weight", shape)


def built(cls: type, fields: dict[str, Any]) -> Any:
  """A dataclass from its attributes as JSON values; TypeError if one is not of its type."""
  hints, values = typing.get_type_hints(cls), {}
  for key, value in fields.items():
    if key in hints and dataclasses.is_dataclass(hints[key]):
      value = built(hints[key], dict(value))
    elif key in hints and not _fits(value, hints[key]):
      raise TypeError(f"{key} cannot be {value!r}")
    values[key] = tuple(value) if isinstance(value, list) else value
  return cls(**values)


def _fits(value, hint) -> bool:
  parts = typing.get_args(hint)
  if typing.get_origin(hint) is tuple:
    return isinstance(value, list) and all(_fits(v, parts[0]) for v in value)
  if typing.get_origin(hint) is Literal:
    return value in parts
  if parts:
    return any(_fits(value, part) for part in parts)
  return type(value) is hint and (hint is not int or value >= 0)
