"""The weights of our directories as an Orbax checkpoint, which training writes, in `orbax/`.

The checkpoint is a tree of `params` and `prior`. Orbax is imported when it is needed: it takes
seconds.
"""

import math
import pathlib
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcodec.errors import CodecError

NAME = "orbax"


def write_arrays(directory: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
  """Writes arrays, whose names have their place in the tree, over what is there."""
  from orbax.checkpoint import v1 as ocp

  ocp.save((directory / NAME).absolute(), unflatten_dict(arrays, sep="/"), overwrite=True)


def read_arrays(directory: pathlib.Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
  """The arrays of the checkpoint in a directory, under the names of their places.

  Args:
    shapes: of the arrays that are needed. If together they are smaller than what the checkpoint
      claims to hold, it is not read: a claim costs it nothing, and memory here.

  Raises:
    CodecError: if the checkpoint is damaged or larger than what is needed.
  """
  from orbax.checkpoint import v1 as ocp

  path = (directory / NAME).absolute()
  try:
    described = flatten_dict(ocp.metadata(path).metadata, sep="/")
    sizes = {name: math.prod(leaf.shape) for name, leaf in described.items()}
    if sum(sizes.values()) > sum(map(math.prod, shapes.values())):
      extra = [name for name, leaf in described.items() if shapes.get(name) != tuple(leaf.shape)]
      raise CodecError(f"{path} holds weights that this codec does not have, as {min(extra)}")
    # As NumPy arrays whatever devices they were written from, and no memory until they come.
    wanted = {
      name: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
      for name, leaf in described.items()
    }
    return flatten_dict(ocp.load(path, unflatten_dict(wanted, sep="/")), sep="/")
  except CodecError:
    raise
  except Exception as error:  # Of any kind: the files are read by several packages in turn.
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise CodecError(f"{path} is not an Orbax checkpoint of a codec: {reason[:200]}") from None
