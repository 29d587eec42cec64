"""A picture's file of format version 1, and the latents that it holds.

Command, to write it if it is not there: python tests/golden_pictures.py

What is there stays: the file is frozen, and so is what it decodes to. The tables of its side
information are kept beside it, as a codec keeps them with its weights: another version of jax makes
others of the same floats.
"""

import dataclasses
import hashlib
import json
import pathlib

import numpy as np
from recorded_pictures import many_rates

from jaxcodec import picture_file
from jaxcodec.entropy import container
from jaxcodec.image import latent_codec

PATH = pathlib.Path(__file__).parent / "golden" / "pictures" / "many_rates.jxc"


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


def main() -> None:
  if PATH.exists():
    raise SystemExit(f"{PATH.name} is there")
  rows, columns = np.mgrid[:40, :100]
  x = np.stack([np.sin(rows / 5), np.cos(columns / 6), np.sin(rows / 4 + columns / 9)], axis=-1)
  fields = {"quality": 75.5, "profile": b"any bytes", "metadata": {"title": "Wellen"}}
  np.save(PATH.with_suffix(".npy"), many_rates().tables)
  data = picture_file.compress(codec(), (0.8 * x)[None].astype(np.float32), **fields)
  PATH.write_bytes(data)
  PATH.with_suffix(".json").write_text(json.dumps(facts(data), indent=1) + "\n")
  print(f"{PATH.name}: {len(data)} bytes")


if __name__ == "__main__":
  main()
