"""The mean-scale hyperprior at one rate, as CompressAI trains its "mbt2018-mean" of quality 4.

Command:
  python -m launch.train --config configs/hyperprior.py --workdir DIR --set data.sources=PHOTOS

Source: Minnen et al., https://arxiv.org/abs/1809.02736; sizes, lambda and learning rates are those
of CompressAI's models and examples. Unlike there the transforms begin as principal components, and
the learning rate falls by a cosine. `--set lambdas=L,L` gives another rate. Theirs are 0.0018,
0.0035, 0.0067, 0.013, 0.025, 0.0483, 0.0932 and 0.18, the last four of `--set codec.filters=192
--set codec.latents=320`.
"""

import dataclasses

from jaxcodec.data.pictures import Pictures
from jaxcodec.image.hyperprior import MeanScaleHyperprior
from jaxcodec.training.config import Adam, LearningRate
from jaxcodec.training.rate_distortion import TrainPictures


def get_config() -> TrainPictures:
  return TrainPictures(
    name="hyperprior",
    codec=MeanScaleHyperprior(filters=128, latents=192),
    data=Pictures(size=(256, 256)),
    batch_size=16,
    num_steps=1_000_000,
    optimizer=Adam(rate=LearningRate(peak=1e-4, cosine=True), clip_norm=1.0),
    lambdas=(0.013, 0.013),
    median_rate=1e-3,
    principal_batches=32,
  )


def tiny() -> TrainPictures:
  """The same code path in seconds on a CPU, for tests."""
  config = get_config()
  return dataclasses.replace(
    config,
    codec=MeanScaleHyperprior(filters=8, latents=12),
    data=Pictures(size=(64, 64)),
    batch_size=8,
    num_steps=3,
    principal_batches=2,
    save_every=3,
    log_every=1,
  )
