"""Configurations from files, and fields set from the command line, checked against their types."""

import dataclasses
import difflib
import importlib.util
import math
import pathlib
import types
import typing
from typing import Any

import flax.linen as nn

from jaxcodec.training.tasks import Run


def load(path: pathlib.Path, function: str = "get_config") -> Run:
  """What `get_config()` of a file returns.

  Raises:
    ValueError: if there is no such file or function, or it gives no kind of run.
  """
  if not path.is_file():
    raise ValueError(f"no configuration {path}")
  spec = importlib.util.spec_from_file_location(path.stem, path)
  if spec is None or spec.loader is None:
    raise ValueError(f"{path} is not a Python file")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    config = getattr(module, function)()
  except Exception as error:  # Of any kind: the file is the user's program.
    raise ValueError(f"{path}: {type(error).__name__}: {error}") from None
  if not isinstance(config, Run):
    kinds = ", ".join(kind.__name__ for kind in typing.get_args(Run))
    raise ValueError(f"{path}: {function}() gives a {type(config).__name__}, not one of {kinds}")
  return config


def changed(config: Run, settings: list[str]) -> Run:
  """`config` with fields replaced, each given as `a.b.c=value`.

  Raises:
    ValueError: for a field that is not there or a value that is not of its type.
  """
  for setting in settings:
    path, equals, text = setting.partition("=")
    if not equals or not path:
      raise ValueError(f"--set {setting}: give FIELD=VALUE")
    config = _replaced(config, path.split("."), text, setting)
  return config


def _replaced(value: Any, path: list[str], text: str, setting: str) -> Any:
  name, *rest = path
  if not dataclasses.is_dataclass(value) or isinstance(value, type):
    raise ValueError(f"--set {setting}: what stands before .{name} has no fields")
  hints = typing.get_type_hints(type(value))
  fields = [field.name for field in dataclasses.fields(value) if field.name in hints]
  if isinstance(value, nn.Module):
    fields = [field for field in fields if field not in ("parent", "name")]
  if name not in fields:
    near = difflib.get_close_matches(name, fields, 1)
    hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(fields)}"
    raise ValueError(f"--set {setting}: {type(value).__name__} has no field {name}{hint}")
  old = getattr(value, name)
  new = _replaced(old, rest, text, setting) if rest else _parsed(text, hints[name], setting)
  # Flax's modules keep more than their fields.
  return (
    value.clone(**{name: new})
    if isinstance(value, nn.Module)
    else dataclasses.replace(value, **{name: new})
  )


def _parsed(text: str, hint: Any, setting: str) -> Any:
  """The value that `text` stands for, of the type `hint`."""
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin is tuple:
    parts = [part for part in text.strip("()").split(",") if part.strip()]
    hints = arguments[:1] * len(parts) if arguments[-1] is Ellipsis else arguments
    if len(hints) != len(parts):
      raise ValueError(f"--set {setting}: {len(arguments)} values needed, {len(parts)} given")
    return tuple(_parsed(p.strip(), h, setting) for p, h in zip(parts, hints, strict=True))
  if origin is typing.Literal:
    if text not in arguments:
      raise ValueError(f"--set {setting}: one of {', '.join(map(str, arguments))} needed")
    return text
  if origin in (typing.Union, types.UnionType):
    if text == "None" and type(None) in arguments:
      return None
    arguments = tuple(part for part in arguments if part is not type(None))
    if len(arguments) == 1:
      return _parsed(text, arguments[0], setting)
  if hint is bool:
    if text.lower() not in ("true", "false"):
      raise ValueError(f"--set {setting}: true or false needed")
    return text.lower() == "true"
  if hint in (int, float):
    try:
      number = hint(text.replace("_", ""))
    except ValueError:
      kind = "a whole number" if hint is int else "a number"
      raise ValueError(f"--set {setting}: {kind} needed") from None
    if math.isnan(number):
      raise ValueError(f"--set {setting}: a number needed")
    return number
  if hint is str:
    return text
  raise ValueError(f"--set {setting}: a {hint} can be set in the file alone")
