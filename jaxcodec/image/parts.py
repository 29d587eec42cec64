"""What the latents of a picture file are coded in: parts, and the exact layers of a codec.

Shapes: y [h, w, M], z [h / 4, w / 4, N].
"""

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcodec.entropy import latents as coder
from jaxcodec.functional import exact
from jaxcodec.functional.exact import UNIT, Depthwise, Layer


class Part(NamedTuple):
  """Latents that are coded together.

  Attributes:
    of_z: whether they are side information, under the codec's own tables, or y, under normal ones.
    places: rows and columns [P] of the latents.
    tables: which table each of the latents [P, C] is under.
    means: what each is rounded about, [P, C], whole numbers in units of 1 / 4096.
    channels: which C of the channels they are.
    coded: which of them are in the file, bool [P, C]; others are their means. None for all.
    goes_on: whether they are in the stream of the part before, which would be too short alone.
  """

  of_z: bool
  places: tuple[np.ndarray, np.ndarray]
  tables: np.ndarray
  means: np.ndarray
  channels: slice = slice(None)
  goes_on: bool = False
  coded: np.ndarray | None = None


Passes = Generator[Part, np.ndarray, np.ndarray]


def in_file(part: Part) -> np.ndarray:
  """bool [P, C], the latents of a part that the file has."""
  return np.broadcast_to(np.True_ if part.coded is None else part.coded, part.means.shape)


def every_place(shape: tuple[int, int], there=True) -> tuple[np.ndarray, np.ndarray]:
  """Rows and columns of the places of a grid in reading order, or of those that are `there`."""
  rows, columns = np.nonzero(np.broadcast_to(there, shape))
  return rows, columns


def own_tables(medians: np.ndarray, shape: tuple[int, int]) -> Passes:
  """Side information about its medians, each channel under its table."""
  places = every_place(shape)
  wide = (len(places[0]), len(medians))
  means = np.broadcast_to(medians, wide)
  tables = np.broadcast_to(np.arange(len(medians)), wide)
  symbols = yield Part(True, places, tables, means)
  return (symbols * UNIT + means).reshape(*shape, -1)


def under(places, scales: np.ndarray, means: np.ndarray, channels=slice(None)) -> Passes:
  """Latents [P, C] of y at some places under scales and means [P, C]."""
  symbols = yield Part(False, places, coder.normal_rows(scales), means, channels)
  return symbols * UNIT + means


def halves(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Scales and means, the halves of the channels."""
  scales, means = np.split(parameters, 2, axis=-1)
  return scales, means


def layers(params: Any) -> Sequence[Layer | Depthwise]:
  """Exact layers of an `nn.Sequential`'s parameters, in their order."""
  names = sorted(params, key=lambda name: int(name.removeprefix("layers_")))
  return [layer(params[name]) for name in names]


def layer(params: Any, mask: np.ndarray | None = None, *, stride: int = 2):
  """The exact layer of a layer's parameters; `stride` is that of a transposed convolution."""
  if "shuffled" in params:
    return exact.subpixel(params["shuffled"]["kernel"], params["shuffled"]["bias"])
  if "depthwise_kernel" in params:
    return exact.depthwise(params["depthwise_kernel"], params["bias"])
  if "kernel" in params and np.ndim(params["kernel"]) == 2:
    return exact.conv(params["kernel"][None, None], params["bias"])
  if "transposed_kernel" in params:
    return exact.deconv(params["transposed_kernel"], params["bias"], stride)
  return exact.conv(params["kernel"], params["bias"], mask)
