"""The latents of one picture in the order in which a file has them, for writer and reader alike.

A codec's passes are a generator. It yields what the next latents are coded under, a `Part`, is sent
their symbols, and returns all latents, as whole numbers in units of 1 / 4096. A writer sends what
it rounds, a reader what it reads; the arithmetic between is the same, and exact
(`functional.exact`), so both see the same tables wherever they run.

Shapes: y [h, w, M], z [h / 4, w / 4, N].
"""

import functools
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcodec.entropy import latents as coder
from jaxcodec.functional import exact, picture_conv
from jaxcodec.functional.exact import UNIT, Layer
from jaxcodec.image.checkerboard import Checkerboard
from jaxcodec.image.factorized import FactorizedPrior
from jaxcodec.image.hyperprior import MeanScaleHyperprior, ScaleHyperprior
from jaxcodec.image.picture_codec import PictureCodec


class Part(NamedTuple):
  """Latents that are coded together.

  Attributes:
    of_z: whether they are side information, under the codec's own tables, or y, under normal ones.
    places: rows and columns [P] of the latents, all channels of each.
    tables: which table each of the latents [P, C] is under.
    means: what each is rounded about, [P, C], whole numbers in units of 1 / 4096.
  """

  of_z: bool
  places: tuple[np.ndarray, np.ndarray]
  tables: np.ndarray
  means: np.ndarray


Passes = Generator[Part, np.ndarray, np.ndarray]


class Networks(NamedTuple):
  """The exact parts of a codec.

  Attributes:
    medians: whole numbers [C], of the channels of side information.
    layers: lists of them by the names of their parameters.
  """

  medians: np.ndarray
  layers: dict[str, Sequence[Layer]]


CODED = (FactorizedPrior, ScaleHyperprior, MeanScaleHyperprior, Checkerboard)


def networks(module: PictureCodec, params: Any) -> Networks:
  """The exact parts of a codec of these parameters.

  Raises:
    ValueError: if there are no files of the codec.
  """
  if not isinstance(module, CODED):
    raise ValueError(f"there are no files of {type(module).__name__} codecs")
  params = jax.tree.map(np.asarray, params)
  medians = exact.whole(params["entropy_bottleneck"]["quantiles"][:, 1])
  lists = {name: layers(params[name]) for name in ("h_s", "entropy_parameters") if name in params}
  if isinstance(module, Checkerboard):
    mask = picture_conv.checkerboard_mask(5)
    lists["context_prediction"] = [layer(params["context_prediction"], mask)]
  return Networks(medians, lists)


def passes(module: PictureCodec, found: Networks, shape: tuple[int, int]) -> Passes:
  """The passes of a codec for y of h x w places."""
  if isinstance(module, FactorizedPrior):
    return (yield from _own_tables(found.medians, shape))
  z = yield from _own_tables(found.medians, (shape[0] // 4, shape[1] // 4))
  if isinstance(module, ScaleHyperprior):
    scales = exact.run(found.layers["h_s"], exact.relu, z)
    return (yield from _under(every_place(shape), scales, np.zeros_like(scales), shape))
  side = exact.run(found.layers["h_s"], exact.leaky_relu, z)
  if isinstance(module, MeanScaleHyperprior):
    scales, means = np.split(side, 2, axis=-1)
    return (yield from _under(every_place(shape), scales, means, shape))
  return (yield from _checkerboard(found.layers, side, shape))


def is_side(module: PictureCodec, part: Part) -> bool:
  """Whether a part is of side information, which synthesis does not see."""
  return part.of_z and not isinstance(module, FactorizedPrior)


def _checkerboard(found: dict[str, Sequence[Layer]], side: np.ndarray, shape) -> Passes:
  (context,), parameters = found["context_prediction"], found["entropy_parameters"]
  color = np.add.outer(*map(np.arange, shape)) % 2
  y = np.zeros((*shape, side.shape[-1] // 2))
  for parity in (0, 1):
    rows, columns = places = every_place(shape, color == parity)
    seen = np.zeros((len(rows), side.shape[-1]))
    if parity:
      seen = exact.apply_at(context, y, rows, columns)
    both = np.concatenate([seen, side[places]], axis=-1)
    scales, means = np.split(exact.run(parameters, exact.leaky_relu, both[None])[0], 2, axis=-1)
    y[places] = (yield Part(False, places, coder.normal_rows(scales), means)) * UNIT + means
  return y


def _own_tables(medians: np.ndarray, shape: tuple[int, int]) -> Passes:
  """Side information about its medians, each channel under its table."""
  places = every_place(shape)
  wide = (len(places[0]), len(medians))
  means = np.broadcast_to(medians, wide)
  tables = np.broadcast_to(np.arange(len(medians)), wide)
  symbols = yield Part(True, places, tables, means)
  return (symbols * UNIT + means).reshape(*shape, -1)


def _under(places, scales: np.ndarray, means: np.ndarray, shape: tuple[int, int]) -> Passes:
  """All of y at once, under scales and means [h, w, M]."""
  rows, about = coder.normal_rows(scales[places]), means[places]
  symbols = yield Part(False, places, rows, about)
  return (symbols * UNIT + about).reshape(*shape, -1)


def every_place(shape: tuple[int, int], there=True) -> tuple[np.ndarray, np.ndarray]:
  """Rows and columns of the places of a grid in reading order, or of those that are `there`."""
  rows, columns = np.nonzero(np.broadcast_to(there, shape))
  return rows, columns


def layers(params: Any) -> Sequence[Layer]:
  """Exact layers of an `nn.Sequential`'s parameters, in their order."""
  names = sorted(params, key=lambda name: int(name.removeprefix("layers_")))
  return [layer(params[name]) for name in names]


def layer(params: Any, mask: np.ndarray | None = None) -> Layer:
  """The exact layer of a layer's parameters."""
  if "shuffled" in params:
    return exact.subpixel(params["shuffled"]["kernel"], params["shuffled"]["bias"])
  if "transposed_kernel" in params:
    return exact.deconv(params["transposed_kernel"], params["bias"], 2)
  return exact.conv(params["kernel"], params["bias"], mask)


@functools.cache
def num_symbols(module: PictureCodec, shape: tuple[int, int]) -> int:
  """Symbols of y of h x w places and its side information."""
  height, width = shape
  of_y = height * width * module.latents
  if isinstance(module, FactorizedPrior):
    return of_y
  return of_y + height // 4 * (width // 4) * module.filters
