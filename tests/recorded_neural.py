"""What `recorded/make_neural.py` recorded, and directories as the authors publish them."""

import functools
import json
import pathlib

import numpy as np
from drawn_weights import draw_sound
from written_archive import Archive

_FILE = pathlib.Path(__file__).parent / "recorded" / "neural.npz"


@functools.cache
def recorded(case: str) -> dict[str, np.ndarray]:
  """The arrays of a case."""
  with np.load(_FILE) as file:
    prefix = f"{case}/"
    return {name.removeprefix(prefix): file[name] for name in file.files if name.startswith(prefix)}


@functools.cache
def weights(case: str, seed: int) -> dict[str, np.ndarray]:
  """The state dict that the case was recorded with."""
  return draw_sound(json.loads(str(recorded(case)["shapes"])), seed)


def nested(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
  """As one dict a module: the names' first parts."""
  found: dict[str, dict[str, np.ndarray]] = {}
  for name, array in arrays.items():
    part, rest = name.split(".", 1)
    found.setdefault(part, {})[rest] = array
  return found


def write_checkpoint(path: pathlib.Path, content) -> None:
  """`content` as `torch.save` writes it."""
  Archive().write(path, content)
