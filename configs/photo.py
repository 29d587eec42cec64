"""Photographs at 0.1 to 1.5 bits a pixel in one model: checkerboard context, gains for 8 qualities.

Command: python -m launch.train --config configs/photo.py --workdir DIR --set data.sources=PHOTOS

Narrower than published, as the weights are to come with the package; docs/photo_codec.md has what
it gave. `--set codec.filters=128 --set codec.latents=192` goes to higher rates.
"""

import dataclasses

from jaxcodec.data.pictures import Pictures
from jaxcodec.image.checkerboard import Checkerboard
from jaxcodec.training.config import Adam, LearningRate
from jaxcodec.training.rate_distortion import TrainPictures


def get_config() -> TrainPictures:
  return TrainPictures(
    name="photo",
    codec=Checkerboard(filters=96, latents=128, levels=8, transform="patch"),
    data=Pictures(size=(128, 128)),
    batch_size=32,
    num_steps=24_000,
    optimizer=Adam(rate=LearningRate(peak=5e-4, warmup_steps=200, cosine=True), clip_norm=1.0),
    lambdas=(0.001, 0.2),
    principal_batches=32,
  )


def tiny() -> TrainPictures:
  """The same code path in seconds on a CPU, for tests."""
  config = get_config()
  return dataclasses.replace(
    config,
    codec=Checkerboard(filters=48, latents=6, levels=2, transform="patch"),
    data=Pictures(size=(64, 64)),
    batch_size=8,
    num_steps=3,
    principal_batches=2,
    save_every=3,
    log_every=1,
  )
