"""Files of pictures of format version 1, and the latents that they hold.

Command, to write those that are not there: python tests/golden_pictures.py

What is there stays: the files are frozen, and so is what they decode to. The tables of side
information are kept beside them, as a codec keeps them with its weights: another version of jax
makes others of the same floats.
"""

import dataclasses
import hashlib
import json
import pathlib

import numpy as np
from recorded_pictures import many_rates

from jaxcodec import fitted_picture, picture_file
from jaxcodec.entropy import container
from jaxcodec.image import c3_code, latent_codec
from jaxcodec.image.c3_fit import Fit
from jaxcodec.image.tiles import Tiling

PATH = pathlib.Path(__file__).parent / "golden" / "pictures" / "many_rates.jxc"
TILES, FITTED = PATH.with_name("tiles.jxc"), PATH.with_name("fitted.jxc")


def codec():
  """The codec of the file."""
  return dataclasses.replace(many_rates(), tables=np.load(PATH.with_suffix(".npy")))


def facts(data: bytes) -> dict:
  (stream,) = container.check(data).streams
  latents = latent_codec.decode_latents(codec(), container.read_picture(data), 64, 128)
  return {
    "sha256": hashlib.sha256(data).hexdigest(),
    "codec": stream.codec,
    "weights": stream.weights_hash.hex(),
    "size": [stream.height, stream.width, stream.channels],
    "quality": stream.quality,
    "profile": stream.profile.hex(),
    "title": container.read_header(data).metadata["title"],
    "latents": hashlib.sha256(latents.astype("<f4").tobytes()).hexdigest(),
    "largest": float(np.abs(latents).max()),
  }


def tile_facts(data: bytes) -> dict:
  (stream,) = container.check(data).streams
  tiling = Tiling(picture_file.grid(codec(), stream.height, stream.width), stream.tile // 16, 0)
  read, count, state = container.picture_chunks(data), int(np.prod(tiling.counts)), hashlib.sha256()
  for place, tile in enumerate(tiling.all()):
    size = tuple(span.stop - span.start for span in tiling.places(tile))
    y = latent_codec.decode_parts(
      codec(), lambda n, at=place: read(n * count + at), stream.parts, size, stream.layers
    )
    state.update(y.astype("<f4").tobytes())
  return {
    "sha256": hashlib.sha256(data).hexdigest(),
    "tile": stream.tile,
    "parts": stream.parts,
    "layers": [list(layer) for layer in stream.layers],
    "latents": state.hexdigest(),
  }


def fitted_facts(data: bytes) -> dict:
  (stream,) = container.check(data).streams
  shape, found = fitted_picture.integers(data, stream)
  state = hashlib.sha256()
  for array in (*(found.arrays[path] for path in shape.sizes()), *found.grids):
    state.update(array.astype("<i8").tobytes())
  return {
    "sha256": hashlib.sha256(data).hexdigest(),
    "networks": list(stream.networks),
    "integers": state.hexdigest(),
    "largest": int(max(np.abs(grid).max() for grid in found.grids)),
  }


def main() -> None:
  rows, columns = np.mgrid[:40, :100]
  x = np.stack([np.sin(rows / 5), np.cos(columns / 6), np.sin(rows / 4 + columns / 9)], axis=-1)
  fields = {"quality": 75.5, "profile": b"any bytes", "metadata": {"title": "Wellen"}}
  x = (0.8 * x)[None].astype(np.float32)
  if not PATH.exists():
    np.save(PATH.with_suffix(".npy"), many_rates().tables)
    _write(PATH, picture_file.compress(codec(), x, **fields), facts)
  if not TILES.exists():
    _write(TILES, picture_file.compress(codec(), x, quality=40, tile=64), tile_facts)
  if not FITTED.exists():
    fit = Fit(num_grids=4, noise_steps=100, rounded_steps=10)
    _write(FITTED, _far(fitted_picture.compress_many(x[:, :30, :41], fit)[0]), fitted_facts)


def _far(data: bytes) -> bytes:
  """A file of fitted integers with two that no table holds."""
  header = container.read_header(data)
  shape, found = fitted_picture.integers(data, header.streams[0])
  found.grids[0][7, 9], found.grids[2][1, 1] = -900, 300
  payload = c3_code.encode(shape, found)
  return container.write(header, [container.picture_record(header, payload)])


def _write(path: pathlib.Path, data: bytes, facts_of) -> None:
  path.write_bytes(data)
  path.with_suffix(".json").write_text(json.dumps(facts_of(data), indent=1) + "\n")
  print(f"{path.name}: {len(data)} bytes")


if __name__ == "__main__":
  main()
