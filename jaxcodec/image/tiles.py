"""Large pictures a tile at a time: each tile can be read alone, and no seam shows where two meet.

Analysis of a tile sees as much of the picture around as its layers reach, and so does synthesis of
the latents of tiles around. So both give what they would give of the whole. What is a tile's own is
how its latents are coded: its side information and contexts end at its edges. That costs bits, as
does every border.

Shapes: a grid of h x w places of 16 x 16 pixels, latents [h, w, M].
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from jaxcodec.image import latent_codec
from jaxcodec.image.latent_codec import LatentCodec, Layers

PLACE = 16  # Pixels of a place.

Spans = tuple[slice, slice]  # Rows and columns.


class Tiling(NamedTuple):
  """A grid cut into tiles; those at its end are smaller.

  Attributes:
    shape: rows and columns of places.
    side: places a side of a tile.
    reach: places around a tile that count, see `LatentCodec.reach`.
  """

  shape: tuple[int, int]
  side: int
  reach: int

  @property
  def counts(self) -> tuple[int, int]:
    """Rows and columns of tiles."""
    return -(-self.shape[0] // self.side), -(-self.shape[1] // self.side)

  def all(self) -> Iterator[tuple[int, int]]:
    """Row and column of each tile, in reading order."""
    return iter(np.ndindex(self.counts))

  def places(self, tile: tuple[int, int]) -> Spans:
    """The places of a tile."""
    return _spans((n * self.side, (n + 1) * self.side, size) for n, size in _both(tile, self.shape))

  def around(self, tile: tuple[int, int]) -> Spans:
    """The places of a tile and those in reach."""
    return _spans(
      (n * self.side - self.reach, (n + 1) * self.side + self.reach, size)
      for n, size in _both(tile, self.shape)
    )

  def window(self, tile: tuple[int, int]) -> Spans:
    """Places with all those in reach of a tile, as many for every tile, so that one program is
    compiled: at the end of the grid it begins earlier."""
    width = self.side + 2 * self.reach
    first = [
      max(0, min(n * self.side - self.reach, size - width)) for n, size in _both(tile, self.shape)
    ]
    return _spans((at, at + width, size) for at, size in _both(first, self.shape))

  def within(self, spans: Spans) -> Iterator[tuple[int, int]]:
    """The tiles that some places meet."""
    rows, columns = (range(s.start // self.side, -(-s.stop // self.side)) for s in spans)
    return ((row, column) for row in rows for column in columns)


def encode(
  codec: LatentCodec,
  tiling: Tiling,
  pixels: Callable[[Spans], np.ndarray],
  quality: float | None,
  layers: Layers,
) -> Iterator[list[bytes]]:
  """The parts of each tile in turn, as `latent_codec.encode_parts` gives them.

  Args:
    pixels: float32 [H, W, 3] in [-1, 1] of some rows and columns of the padded picture.
  """
  for tile in tiling.all():
    window, places = tiling.window(tile), tiling.places(tile)
    y = latent_codec.analyse(codec, pixels(scaled(window, PLACE)), quality)
    y = y[relative(places, window)]
    yield latent_codec.encode_parts(codec, y, latent_codec.side(codec, y), layers)


def strongest(
  codec: LatentCodec,
  tiling: Tiling,
  pixels: Callable[[Spans], np.ndarray],
  quality: float | None,
) -> tuple[tuple[int, ...], ...]:
  """Layers for `encode`: the channels that vary most in the tile in the middle come first, a
  thirty-second of all, then an eighth."""
  rows, columns = tiling.counts
  window = tiling.window((rows // 2, columns // 2))
  y = latent_codec.analyse(codec, pixels(scaled(window, PLACE)), quality)
  order = np.argsort(-np.square(np.rint(y)).sum(axis=(0, 1)), kind="stable").tolist()
  first, second = max(1, len(order) // 32), len(order) // 8
  return tuple(tuple(layer) for layer in (order[:first], order[first : first + second]) if layer)


def decode(
  codec: LatentCodec,
  tiling: Tiling,
  latents: Callable[[tuple[int, int]], np.ndarray],
  quality: float | None,
  wanted: Spans,
) -> Iterator[tuple[Spans, np.ndarray]]:
  """Pixels and what they are, float32 [H, W, 3], of all tiles that some places meet.

  What lies out of these places is not decoded, and is anything.

  Args:
    latents: of a tile; called once for each tile in reach of the places.
  """
  rows, columns = (slice(s.start - tiling.reach, s.stop + tiling.reach) for s in wanted)
  held: dict[tuple[int, int], np.ndarray] = {}
  for tile in tiling.within(wanted):
    window, around = tiling.window(tile), shared(tiling.around(tile), (rows, columns))
    needed = list(tiling.within(around))
    # Rows above are done with.
    held = {place: y for place, y in held.items() if place[0] >= needed[0][0]}
    # Zeros stand for what is out of reach.
    y = np.zeros((*map(_length, window), codec.module.latents), np.float32)
    for place in needed:
      if place not in held:
        held[place] = latents(place)
      own = tiling.places(place)
      both = shared(own, around)
      y[relative(both, window)] = held[place][relative(both, own)]
    x = np.asarray(latent_codec.synthesise(codec, y, quality))
    places = tiling.places(tile)
    yield scaled(places, PLACE), x[scaled(relative(places, window), PLACE)]


def scaled(spans: Spans, factor: int) -> Spans:
  """Spans of places as those of pixels."""
  rows, columns = (slice(s.start * factor, s.stop * factor) for s in spans)
  return rows, columns


def shared(a: Spans, b: Spans) -> Spans:
  """What two spans have in common."""
  return _spans((max(x.start, y.start), min(x.stop, y.stop), y.stop) for x, y in _both(a, b))


def relative(spans: Spans, start: Spans) -> Spans:
  """Spans as counted from where others begin."""
  rows, columns = (slice(a.start - b.start, a.stop - b.start) for a, b in _both(spans, start))
  return rows, columns


def _both(a, b):
  return zip(a, b, strict=True)


def _length(span: slice) -> int:
  return span.stop - span.start


def _spans(ends: Iterable[tuple[int, int, int]]) -> Spans:
  """Two spans from first and last, cut at zero and at a size."""
  rows, columns = (slice(max(0, first), min(stop, size)) for first, stop, size in ends)
  return rows, columns
