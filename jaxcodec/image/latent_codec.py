"""A codec of rounded latents as a value, and pictures to the bytes of its latents and back."""

import dataclasses
import functools
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
from jaxcodec.image.parts import in_file
from jaxcodec.image.picture_codec import PictureCodec


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
  networks = codec.networks
  if latents is None:
    y, z = (np.asarray(part)[0] for part in analysed(codec, x[None], quality))
  else:
    y, z = latents
  writers: list[coder.Writer] = []
  steps = passes_lib.passes(codec.module, networks, y.shape[:2])
  try:
    part = next(steps)
    while True:
      values = (z if part.of_z else y)[(*part.places, part.channels)]
      symbols = np.rint(values.astype(np.float64) - part.means / UNIT)
      if not np.isfinite(symbols).all():
        raise ValueError("a latent of the picture is not finite")
      if not part.goes_on:
        writers.append(coder.Writer(codec.tables if part.of_z else coder.normal_tables()))
      coded = in_file(part)
      symbols = np.where(coded, symbols, 0)
      writers[-1].put(symbols[coded], part.tables[coded])
      part = steps.send(symbols)
  except StopIteration:
    return b"".join(writer.done() for writer in writers)


def decode(
  codec: LatentCodec, data: bytes, height: int, width: int, quality: float | None = None
) -> jax.Array:
  """The picture float32 [H, W, 3] of `encode`'s bytes, whose H and W they do not say.

  Raises:
    CodecError: if the bytes are damaged.
    ValueError: if there are no files of the codec.
  """
  return _synthesise(codec, decode_latents(codec, data, height, width)[None], quality)[0]


def decode_latents(codec: LatentCodec, data: bytes, height: int, width: int) -> np.ndarray:
  """Latents float32 [H / 16, W / 16, M] of `encode`'s bytes; the same bits on every machine."""
  steps = passes_lib.passes(codec.module, codec.networks, (height // 16, width // 16))
  reader: coder.Reader | None = None
  try:
    part = next(steps)
    while True:
      if reader is None or not part.goes_on:
        at = reader.finish() if reader else 0
        reader = coder.Reader(data, at, codec.tables if part.of_z else coder.normal_tables())
      coded = in_file(part)
      symbols = np.zeros(coded.shape, np.int64)
      symbols[coded] = reader.take(part.tables[coded])
      part = steps.send(symbols)
  except StopIteration as end:
    at = reader.finish() if reader else 0
    if at != len(data):
      raise CodecError(f"{len(data) - at} bytes too many after the latents") from None
    return (end.value / UNIT).astype(np.float32)


def analysed(codec: LatentCodec, x, quality: float | None = None):
  """`(y, z)` of pictures [B, H, W, 3], before rounding."""
  return _jit_analyse(codec.params, x, quality, module=codec.module)


def _synthesise(codec: LatentCodec, y_hat, quality=None):
  return _jit_synthesise(codec.params, y_hat, quality, module=codec.module)


@functools.partial(jax.jit, static_argnames="module")
def _jit_analyse(params, x, quality, *, module):
  return module.apply({"params": params}, x, quality, method="analyse")


@functools.partial(jax.jit, static_argnames="module")
def _jit_synthesise(params, y_hat, quality, *, module):
  return module.apply({"params": params}, y_hat, quality, method="synthesise")
