"""Pictures to `.jxc` files that carry networks of their own, fitted to them (C3), and back."""

from collections.abc import Callable, Mapping

import jax
import numpy as np

from jaxcodec.entropy import container
from jaxcodec.entropy.container import Header, Picture
from jaxcodec.errors import CodecError
from jaxcodec.image import c3_code, c3_fit
from jaxcodec.image.c3_code import Integers, Shape
from jaxcodec.image.c3_fit import Fit

CODEC = "c3"
STEPS = 10_000
_WEIGHTS = (2e-2, 1e-4)  # At qualities 0 and 100.
_HASH = bytes(16)  # There are no weights beside those in the file.


def fit_of(quality: float | None = None, steps: int | None = None) -> Fit:
  """How a picture is fitted.

  Args:
    quality: 0 to 100, to whose ends belong weights of rate of 0.02 and 0.0001; None for 50.
    steps: with noise; a tenth as many with rounding follow. None for 10000.

  Raises:
    ValueError: if either is out of range.
  """
  quality, steps = 50 if quality is None else quality, STEPS if steps is None else steps
  if not 0 <= quality <= 100:
    raise ValueError(f"a quality is 0 to 100, not {quality:g}")
  if not 1 <= steps <= 10**7:
    raise ValueError(f"steps are 1 to ten million, not {steps}")
  low, high = _WEIGHTS
  weight = low * (high / low) ** (quality / 100)
  return Fit(rd_weight=weight, noise_steps=steps, rounded_steps=max(1, steps // 10))


def compress_many(
  x: np.ndarray,
  fit: Fit | None = None,
  *,
  seed: int = 0,
  channels: int = 3,
  profile: bytes = b"",
  metadata: Mapping[str, str] | None = None,
  progress: Callable[[int], None] | None = None,
) -> list[bytes]:
  """Pictures that are fitted together, after minutes, each as the bytes of a `.jxc` file that needs
  no codec to be read.

  Args:
    x: uint8 `[batch, height, width, 3]`, or floating in [-1, 1].
    fit: how, see `fit_of`.
    seed: of noise and of the networks' first weights.
    channels, profile, metadata: as of `picture_file.compress`.
    progress: told how many steps are done.

  Raises:
    ValueError: if shape, type or samples do not fit, or a fit has come to nothing finite.
  """
  if x.ndim != 4 or x.shape[3] != 3 or 0 in x.shape:
    raise ValueError(f"pictures are [batch, height, width, 3], got shape {x.shape}")
  if x.dtype != np.uint8:
    if not np.issubdtype(x.dtype, np.floating) or not np.isfinite(x).all():
      raise ValueError("pictures must be uint8, or floating and finite, within [-1, 1]")
    x = np.clip((x + 1) * 127.5, 0, 255)
  fit = fit_of() if fit is None else fit
  shape, unit = c3_code.shape_of(fit), x.astype(np.float32) / 255

  def tell(steps: int, found: c3_fit.Losses) -> None:
    jax.block_until_ready(found)
    if progress:
      progress(steps)

  params, _ = c3_fit.fit_pictures(fit, jax.random.key(seed), unit, tell)
  height, width = x.shape[1:3]
  described = Picture(
    codec=CODEC,
    weights_hash=_HASH,
    height=height,
    width=width,
    channels=channels,
    num_symbols=shape.num_symbols(height, width),
    profile=profile,
    networks=shape.numbers(),
  )
  header = Header(streams=(described,), metadata=metadata or {})
  coded = []
  for number, pixels in enumerate(unit):
    own = jax.tree.map(lambda leaf, n=number: leaf[n], params)
    payload = c3_code.encode(shape, c3_code.rounded(fit, own, pixels))
    coded.append(container.write(header, [container.picture_record(header, payload)]))
  return coded


def pixels(data: bytes, described: Picture, *, stream: int = 0, max_memory: int) -> np.ndarray:
  """The picture of stream `stream` of a file: float32 [H, W, 3] in [-1, 1].

  Raises:
    CodecError: if the file is damaged, or needs too much memory.
  """
  needed = memory_needed(described)
  if needed > max_memory:
    sizes = f"{needed / 1e6:.0f} MB of memory, and {max_memory / 1e6:.0f}"
    raise CodecError(f"by what it says the file needs {sizes} are allowed")
  shape, found = integers(data, described, stream=stream)
  return 2 * c3_code.picture(shape, found, described.height, described.width) - 1


def integers(data: bytes, described: Picture, *, stream: int = 0) -> tuple[Shape, Integers]:
  """All that such a file holds, the same on every machine.

  Raises:
    CodecError: if the file is damaged.
  """
  shape = c3_code.shape_from(described.networks)
  size = described.height, described.width
  if described.codec != CODEC or described.num_symbols != shape.num_symbols(*size):
    raise CodecError(f"the file's networks are not those of the codec {described.codec!r}")
  payload = container.read_picture(data, stream=stream)
  return shape, c3_code.decode(shape, payload, *size)


def memory_needed(described: Picture) -> int:
  """Bytes that decoding takes, estimated: the two widest layers of synthesis, and the grids."""
  shape = c3_code.shape_from(described.networks)
  widest = max(27, shape.num_grids, *shape.synthesis)
  return described.height * described.width * (4 * 3 * widest + 32)
