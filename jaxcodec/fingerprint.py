"""A codec's configuration as JSON, and the bytes that tell codecs apart."""

import dataclasses
import hashlib
import json
from typing import Any

import jax
import numpy as np


def module_config(module: Any, *, defaults: bool = True) -> dict[str, Any]:
  """The attributes of a module or a dataclass as JSON values, with or without those left alone.

  Without, those are left out as well that a codec is the same codec with or without; their fields
  have `identity: False` in their metadata.
  """
  config: dict[str, Any] = {}
  for field in dataclasses.fields(module):
    value = getattr(module, field.name)
    if not defaults and not field.metadata.get("identity", True):
      continue
    if field.name not in ("parent", "name") and (defaults or value != field.default):
      nested = dataclasses.is_dataclass(value)
      config[field.name] = module_config(value, defaults=defaults) if nested else value
  return config


def digest(module: Any, tree: Any) -> bytes:
  """The start of SHA-256 over a module's configuration as JSON and each array's path, shape and
  little-endian bytes, in the order of the paths; the same on every machine."""
  # Without defaults, so that an attribute that is added later leaves files readable.
  config = module_config(module, defaults=False)
  state = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
  for name in sorted(named):
    array = np.asarray(named[name])
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    state.update(f"{name}{array.dtype.str}{array.shape}".encode())
    state.update(array)
  return state.digest()[:16]
