"""A codec of rounded latents as a value, and pictures to the bytes of its latents and back."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec.bottlenecks import EntropyBottleneck
from jaxcodec.entropy import latents as coder
from jaxcodec.errors import CodecError
from jaxcodec.fingerprint import digest
from jaxcodec.functional.exact import UNIT
from jaxcodec.image import passes as passes_lib
from jaxcodec.image.parts import Part, in_file
from jaxcodec.image.picture_codec import PictureCodec

Layers = Sequence[Sequence[int]]  # Channels.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentCodec:
  """A network, its weights and the tables of its side information: an immutable pytree.

  Attributes:
    module: the Linen module, static.
    params: its parameters, nested dicts of arrays.
    tables: int32 [C, 513], what `tables_of` makes of the density of each channel of side
      information: kept, as they come from floats that another machine may compute otherwise.
    name: what a file calls this codec.
  """

  module: PictureCodec = dataclasses.field(metadata={"static": True})
  params: Any
  tables: Any
  name: str = dataclasses.field(metadata={"static": True})

  @functools.cached_property
  def networks(self) -> passes_lib.Networks:
    """What decides how a file is read, in whole numbers."""
    return passes_lib.networks(self.module, self.params)

  @functools.cached_property
  def reach(self) -> int:
    """How far the transforms look, in places of latents: no output of either depends on more.

    Found by what one input that is not a number makes of the others.

    Raises:
      ValueError: if it is 20 places or more.
    """
    middle = 20
    y = np.zeros((1, 2 * middle + 1, self.module.latents), np.float32)
    y[:, middle] = np.nan
    x = np.zeros((16, 16 * y.shape[1], 3), np.float32)
    x[:, 16 * middle : 16 * middle + 16] = np.nan
    quality = 0.0 if self.module.levels else None
    seen = np.isnan(synthesise(self, y, quality)).any(axis=(0, 2)).reshape(-1, 16).any(axis=1)
    seen |= np.isnan(analyse(self, x, quality)).any(axis=(0, 2))
    found = int(np.abs(np.flatnonzero(seen) - middle).max())
    if found == middle:
      raise ValueError(f"codec {self.name} looks too far for tiles")
    return found

  @functools.cached_property
  def fingerprint(self) -> bytes:
    """16 bytes that tell codecs apart, see `fingerprint.digest`: tens of megabytes are hashed."""
    return digest(self.module, {"params": self.params, "tables": self.tables})


def latent_codec(module: PictureCodec, params: Any, name: str) -> LatentCodec:
  """A codec from trained parameters."""
  return LatentCodec(module=module, params=params, tables=tables_of(params), name=name)


def tables_of(params: Any) -> np.ndarray:
  """Tables int32 [C, 513] of the integers -255 to 255 about each channel's median."""
  return coder.cdf_of(np.asarray(_probabilities(params), np.float64)).astype(np.int32)


@jax.jit
def _probabilities(params: Any):
  """[C, 511] under the density of an `EntropyBottleneck`'s parameters."""
  own = params["entropy_bottleneck"]
  bottleneck = EntropyBottleneck(len(own["quantiles"]))
  steps = jnp.arange(-coder.REACH, coder.REACH + 1, dtype=jnp.float32)[:, None]
  z = steps + own["quantiles"][:, 1]
  return bottleneck.apply({"params": own}, z, method="likelihood").T


def encode(
  codec: LatentCodec,
  x: np.ndarray,
  quality: float | None = None,
  latents: tuple[np.ndarray, np.ndarray] | None = None,
) -> bytes:
  """The latents of a picture [H, W, 3] in [-1, 1], H and W multiples of the codec's.

  `quality` is that of `PictureCodec`, for codecs that have many; `latents` are y and z if they are
  not to be those of the analysis.

  Raises:
    ValueError: if there are no files of the codec, or a latent is too large for one.
  """
  if latents is None:
    latents = tuple(np.asarray(part)[0] for part in analysed(codec, x[None], quality))
  return b"".join(encode_parts(codec, *latents))


def encode_parts(
  codec: LatentCodec, y: np.ndarray, z: np.ndarray, layers: Layers = ()
) -> list[bytes]:
  """Latents [h, w, M] and side information as the bytes of each of the codec's parts.

  Args:
    layers: channels of y that are parts of their own, in turn, each before what is left.

  Raises:
    ValueError: as `encode`.
  """
  written: list[coder.Writer] = []

  def answer(part: Part) -> np.ndarray:
    values = (z if part.of_z else y)[(*part.places, part.channels)]
    symbols = np.rint(values.astype(np.float64) - part.means / UNIT)
    if not np.isfinite(symbols).all():
      raise ValueError("a latent of the picture is not finite")
    coded = in_file(part)
    symbols = np.where(coded, symbols, 0)
    own = _layers(codec, part, layers)
    if not part.goes_on:
      written.extend(coder.Writer(_tables(codec, part)) for _ in own)
    for writer, channels in zip(written[-len(own) :], own, strict=True):
      there = coded[:, channels]
      writer.put(symbols[:, channels][there], part.tables[:, channels][there])
    return symbols

  _run(codec, y.shape[:2], answer)
  return [writer.done() for writer in written]


def decode(
  codec: LatentCodec, data: bytes, height: int, width: int, quality: float | None = None
) -> jax.Array:
  """The picture float32 [H, W, 3] of `encode`'s bytes, whose H and W they do not say.

  Raises:
    CodecError: if the bytes are damaged.
    ValueError: if there are no files of the codec.
  """
  return synthesise(codec, decode_latents(codec, data, height, width), quality)


def decode_latents(codec: LatentCodec, data: bytes, height: int, width: int) -> np.ndarray:
  """Latents float32 [H / 16, W / 16, M] of `encode`'s bytes; the same bits on every machine."""
  at, reader = 0, None

  def answer(part: Part) -> np.ndarray:
    nonlocal at, reader
    if reader is None or not part.goes_on:
      at = reader.finish() if reader else 0
      reader = coder.Reader(data, at, _tables(codec, part))
    return _taken(reader, part, in_file(part), slice(None))

  found = _run(codec, (height // 16, width // 16), answer)
  at = reader.finish() if reader else 0
  if at != len(data):
    raise CodecError(f"{len(data) - at} bytes too many after the latents")
  return found


def _taken(reader: coder.Reader, part: Part, coded: np.ndarray, channels) -> np.ndarray:
  """Symbols [P, C] of some channels of a part; zeros where they are not in the file."""
  there = coded[:, channels]
  symbols = np.zeros(there.shape, np.int64)
  symbols[there] = reader.take(part.tables[:, channels][there])
  return symbols


def decode_parts(
  codec: LatentCodec,
  read: Callable[[int], bytes | None],
  num_parts: int,
  shape: tuple[int, int],
  layers: Layers = (),
) -> np.ndarray:
  """Latents float32 [h, w, M] of `encode_parts`' bytes, h and w being `shape`.

  Args:
    read: the bytes of part n; None for a part that is not there. A latent of such is the mean of
      those beside it, or where they lack too what it would have been rounded about.
    num_parts: how many there are.
    layers: those of `encode_parts`.

  Raises:
    CodecError: if they are damaged, or of another number than the codec's.
  """
  opened: list[coder.Reader | None] = []
  sizes: list[int] = []
  there = np.ones((*shape, codec.module.latents), bool)

  def open_next(part: Part) -> None:
    data = read(len(opened)) if len(opened) < num_parts else None
    opened.append(None if data is None else coder.Reader(data, 0, _tables(codec, part)))
    sizes.append(len(data or b""))

  def answer(part: Part) -> np.ndarray:
    found = np.zeros(part.means.shape, np.int64)
    own, coded = _layers(codec, part, layers), in_file(part)
    if not part.goes_on:
      for _ in own:
        open_next(part)
    for reader, channels in zip(opened[-len(own) :], own, strict=True):
      if reader is not None:
        found[:, channels] = _taken(reader, part, coded, channels)
      elif not passes_lib.is_side(codec.module, part):
        rows, columns = part.places
        every = np.arange(codec.module.latents)[part.channels]
        there[rows[:, None], columns[:, None], every[channels]] = False
    return found

  y = _run(codec, shape, answer)
  if len(opened) != num_parts:
    raise CodecError(f"the file has {num_parts} parts a tile, its codec {len(opened)}")
  for reader, size in zip(opened, sizes, strict=True):
    if reader is not None and reader.finish() != size:
      raise CodecError("bytes too many after a part of the latents")
  return y if there.all() else _filled(y, there)


def _layers(codec: LatentCodec, part: Part, layers: Layers) -> Layers:
  """The channels of each of the parts that some latents are coded in; slices of them are whole."""
  size = part.means.shape[1]
  whole = size < codec.module.latents or passes_lib.is_side(codec.module, part)
  if not layers or whole:
    return (range(size),)
  first = {channel for layer in layers for channel in layer}
  if not first <= set(range(size)):
    raise CodecError(f"the file has a layer of channels beyond {size}")
  rest = [channel for channel in range(size) if channel not in first]
  return (*map(list, layers), rest) if rest else tuple(map(list, layers))


def _filled(y: np.ndarray, there: np.ndarray) -> np.ndarray:
  """Latents, those not `there` the means of the four beside them that are, if any."""
  known = np.pad(np.where(there, y, 0), ((1, 1), (1, 1), (0, 0)))
  count = np.pad(there.astype(np.float32), ((1, 1), (1, 1), (0, 0)))
  around = [
    part[:-2, 1:-1] + part[2:, 1:-1] + part[1:-1, :-2] + part[1:-1, 2:] for part in (known, count)
  ]
  return np.where(there | (around[1] == 0), y, around[0] / np.maximum(around[1], 1))


def analyse(codec: LatentCodec, x: np.ndarray, quality: float | None = None) -> np.ndarray:
  """Latents y [h, w, M] of a picture [H, W, 3], sides multiples of 16, before rounding."""
  return np.asarray(_jit_latents(codec.params, x[None], quality, module=codec.module)[0])


def side(codec: LatentCodec, y: np.ndarray) -> np.ndarray:
  """Side information of latents."""
  return np.asarray(_jit_side(codec.params, y[None], module=codec.module)[0])


def synthesise(codec: LatentCodec, y_hat: np.ndarray, quality: float | None = None) -> jax.Array:
  """The picture [H, W, 3] of latents [h, w, M]; it may leave [-1, 1]."""
  return _synthesise(codec, y_hat[None], quality)[0]


def _run(codec: LatentCodec, shape: tuple[int, int], answer) -> np.ndarray:
  """The codec's passes, each answered with its symbols, and the latents float32 at their end."""
  steps = passes_lib.passes(codec.module, codec.networks, shape)
  try:
    part = next(steps)
    while True:
      part = steps.send(answer(part))
  except StopIteration as end:
    return (end.value / UNIT).astype(np.float32)


def _tables(codec: LatentCodec, part: Part) -> np.ndarray:
  return codec.tables if part.of_z else coder.normal_tables()


def analysed(codec: LatentCodec, x, quality: float | None = None):
  """`(y, z)` of pictures [B, H, W, 3], before rounding."""
  return _jit_analyse(codec.params, x, quality, module=codec.module)


def _synthesise(codec: LatentCodec, y_hat, quality=None):
  return _jit_synthesise(codec.params, y_hat, quality, module=codec.module)


@functools.partial(jax.jit, static_argnames="module")
def _jit_analyse(params, x, quality, *, module):
  return module.apply({"params": params}, x, quality, method="analyse")


@functools.partial(jax.jit, static_argnames="module")
def _jit_latents(params, x, quality, *, module):
  return module.apply({"params": params}, x, quality, method="latents_of")


@functools.partial(jax.jit, static_argnames="module")
def _jit_side(params, y, *, module):
  return module.apply({"params": params}, y, method="side")


@functools.partial(jax.jit, static_argnames="module")
def _jit_synthesise(params, y_hat, quality, *, module):
  return module.apply({"params": params}, y_hat, quality, method="synthesise")
