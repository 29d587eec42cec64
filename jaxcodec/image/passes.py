"""The latents of one picture in the order in which a file has them, for writer and reader alike.

A codec's passes are a generator. It yields what the next latents are coded under, a `Part`, is sent
their symbols, and returns all latents, as whole numbers in units of 1 / 4096. A writer sends what
it rounds, a reader what it reads; the arithmetic between is the same, and exact
(`functional.exact`), so both see the same tables wherever they run.

Shapes: y [h, w, M], z [h / 4, w / 4, N].
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcodec.entropy import latents as coder
from jaxcodec.functional import exact, exact_curves, picture_conv
from jaxcodec.functional.exact import UNIT, Layer
from jaxcodec.image import mlic_passes
from jaxcodec.image.autoregressive import JointAutoregressive
from jaxcodec.image.channelwise import SCALE_LEVELS, ChannelWise
from jaxcodec.image.checkerboard import Checkerboard
from jaxcodec.image.elic import Elic
from jaxcodec.image.factorized import FactorizedPrior
from jaxcodec.image.hyperprior import MeanScaleHyperprior, ScaleHyperprior
from jaxcodec.image.mlic import Mlic
from jaxcodec.image.parts import Part, Passes, every_place, halves, layer, layers, own_tables, under
from jaxcodec.image.picture_codec import PictureCodec


class Networks(NamedTuple):
  """The exact parts of a codec.

  Attributes:
    medians: whole numbers [C], of the channels of side information.
    layers: lists of them by the names of their parameters, of MLIC dicts of such.
  """

  medians: np.ndarray
  layers: Mapping[str, Any]


# Whose files are read by networks of these names, where they are there.
_LISTS = ("h_s", "h_means", "h_scales", "entropy_parameters")
_NUMBERED = ("means_", "scales_", "residuals_", "channel_context_", "entropy_parameters_")


def networks(module: PictureCodec, params: Any) -> Networks:
  """The exact parts of a codec of these parameters.

  Raises:
    ValueError: if there are no files of the codec.
  """
  if type(module) not in _PASSES:
    raise ValueError(f"there are no files of {type(module).__name__} codecs")
  params = jax.tree.map(np.asarray, params)
  medians = exact.whole(params["entropy_bottleneck"]["quantiles"][:, 1])
  if isinstance(module, Mlic):
    return Networks(medians, mlic_passes.networks(params))
  raster = isinstance(module, JointAutoregressive)
  mask_of = picture_conv.raster_mask if raster else picture_conv.checkerboard_mask
  found: dict[str, Any] = {}
  for name, own in params.items():
    if name.startswith("context_prediction"):
      found[name] = [layer(own, mask_of(len(own["kernel"])))]
    elif name in _LISTS or name.startswith(_NUMBERED):
      found[name] = layers(own)
  if isinstance(module, Elic):  # Its last transposed convolution does not widen.
    found["h_s"] = [*found["h_s"][:-1], layer(params["h_s"]["layers_4"], stride=1)]
  return Networks(medians, found)


def passes(module: PictureCodec, found: Networks, shape: tuple[int, int]) -> Passes:
  """The passes of a codec for y of h x w places."""
  if isinstance(module, FactorizedPrior):
    return (yield from own_tables(found.medians, shape))
  z = yield from own_tables(found.medians, (shape[0] // 4, shape[1] // 4))
  return (yield from _PASSES[type(module)](module, found.layers, z, shape))


def is_side(module: PictureCodec, part: Part) -> bool:
  """Whether a part is of side information, which synthesis does not see."""
  return part.of_z and not isinstance(module, FactorizedPrior)


def _scales_alone(module, found, z: np.ndarray, shape) -> Passes:
  places = every_place(shape)
  scales = exact.run(found["h_s"], exact.relu, z)[places]
  return (yield from under(places, scales, np.zeros_like(scales))).reshape(*shape, -1)


def _mean_scale(module, found, z: np.ndarray, shape) -> Passes:
  places = every_place(shape)
  side = exact.run(found["h_s"], exact.leaky_relu, z)[places]
  return (yield from under(places, *halves(side))).reshape(*shape, -1)


def _checkerboard(module, found, z: np.ndarray, shape) -> Passes:
  side = exact.run(found["h_s"], exact.leaky_relu, z)
  (context,), parameters = found["context_prediction"], found["entropy_parameters"]
  channels = slice(0, module.latents)
  return (yield from _two_passes(side, context, parameters, exact.leaky_relu, shape, channels))


def _two_passes(side, context: Layer, parameters, activation, shape, channels: slice) -> Passes:
  """Some channels of y [h, w, C]: even places, then odd ones in view of them."""
  color = np.add.outer(*map(np.arange, shape)) % 2
  size = channels.stop - channels.start
  y = np.zeros((*shape, size))
  for parity in (0, 1):
    rows, columns = places = every_place(shape, color == parity)
    seen = np.zeros((len(rows), 2 * size))
    if parity:
      seen = exact.apply_at(context, y, rows, columns)
    both = np.concatenate([seen, side[places]], axis=-1)
    found = exact.run(parameters, activation, both[None])[0]
    y[places] = yield from under(places, *halves(found), channels)
  return y


def _elic(module: Elic, found, z: np.ndarray, shape) -> Passes:
  side = exact.run(found["h_s"], exact.relu, z)
  y = np.zeros((*shape, module.latents))
  for k, (end, size) in enumerate(
    zip(itertools.accumulate(module.groups), module.groups, strict=True)
  ):
    known, channels = side, slice(end - size, end)
    if k:
      before = exact.run(found[f"channel_context_{k - 1}"], exact.relu, y[..., : end - size])
      known = np.concatenate([before, side], axis=-1)
    (context,), parameters = found[f"context_prediction_{k}"], found[f"entropy_parameters_{k}"]
    y[..., channels] = yield from _two_passes(
      known, context, parameters, exact.relu, shape, channels
    )
  return y


def _channel_wise(module: ChannelWise, found, z: np.ndarray, shape) -> Passes:
  side_means, side_scales = (exact.run(found[n], exact.relu, z) for n in ("h_means", "h_scales"))
  places, size = every_place(shape), module.latents // module.slices
  y = np.zeros((*shape, module.latents))
  for i in range(module.slices):
    channels = slice(i * size, (i + 1) * size)
    before = y[..., : min(i, module.max_support) * size]
    support = np.concatenate([side_means, before], axis=-1)
    means = exact.run(found[f"means_{i}"], exact.relu, support)
    of_scales = np.concatenate([side_scales, before], axis=-1)
    index = exact.run(found[f"scales_{i}"], exact.relu, of_scales)[places]
    tables = np.clip(np.floor(index / UNIT + 0.5), 0, SCALE_LEVELS - 1).astype(np.int64)
    symbols = yield Part(False, places, tables, means[places], channels)
    rounded = (symbols * UNIT).reshape(*shape, size) + means
    seen = np.concatenate([support, rounded], axis=-1)
    residual = exact.run(found[f"residuals_{i}"], exact.relu, seen)
    y[..., channels] = rounded + exact_curves.half_tanh(residual)
  return y


def _raster(module, found, z: np.ndarray, shape) -> Passes:
  """Places that know all that they see are coded at once: those of equal column + 3 row, as the
  context reaches two columns to the right in the rows above."""
  side = exact.run(found["h_s"], exact.leaky_relu, z)
  (context,), parameters = found["context_prediction"], found["entropy_parameters"]
  y = np.zeros((*shape, module.latents))
  order = 3 * np.arange(shape[0])[:, None] + np.arange(shape[1])
  for step in range(order[-1, -1] + 1):
    rows, columns = places = every_place(shape, order == step)
    if not len(rows):
      continue  # A narrow grid has gaps between its rows.
    both = np.concatenate([side[places], exact.apply_at(context, y, rows, columns)], axis=-1)
    scales, means = halves(exact.run(parameters, exact.leaky_relu, both[None])[0])
    tables = coder.normal_rows(scales)
    y[places] = (yield Part(False, places, tables, means, goes_on=step > 0)) * UNIT + means
  return y


_PASSES: dict[type[PictureCodec], Callable[..., Passes]] = {
  FactorizedPrior: own_tables,
  ScaleHyperprior: _scales_alone,
  MeanScaleHyperprior: _mean_scale,
  Checkerboard: _checkerboard,
  JointAutoregressive: _raster,
  ChannelWise: _channel_wise,
  Elic: _elic,
  Mlic: mlic_passes.passes,
}


@functools.cache
def num_symbols(module: PictureCodec, shape: tuple[int, int]) -> int:
  """Symbols of y of h x w places and its side information."""
  height, width = shape
  of_y = height * width * module.latents
  if isinstance(module, FactorizedPrior):
    return of_y
  return of_y + height // 4 * (width // 4) * module.filters
