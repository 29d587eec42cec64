"""MLICv2 for photographs at one rate: five references for each slice of latents.

Command: python -m launch.train --config configs/mlicv2.py --workdir DIR --set data.sources=PHOTOS

The published size and lambda (0.0018 to 0.0483 give other rates); steps are a fifth of the
authors' two million. It has not been trained here. For MLIC++ add `--set
codec.references=channel,inter,local,intra --set codec.mixing=0 --set codec.reweighted=false --set
codec.rotary=false --set codec.skip_below=0`.
"""

import dataclasses

from jaxcodec.data.pictures import Pictures
from jaxcodec.image.mlic import mlic_v2
from jaxcodec.training.config import Adam, LearningRate
from jaxcodec.training.rate_distortion import TrainPictures


def get_config() -> TrainPictures:
  return TrainPictures(
    name="mlicv2",
    codec=mlic_v2(),
    data=Pictures(size=(256, 256)),
    batch_size=32,
    num_steps=400_000,
    optimizer=Adam(rate=LearningRate(peak=1e-4, warmup_steps=1000, cosine=True), clip_norm=1.0),
    lambdas=(0.013, 0.013),
    remat=True,
  )


def tiny() -> TrainPictures:
  """The same code path in seconds on a CPU, for tests."""
  return dataclasses.replace(
    get_config(),
    codec=mlic_v2(filters=8, latents=16, slices=2),
    data=Pictures(size=(64, 64)),
    batch_size=4,
    num_steps=3,
    selective_share=0.4,
    remat=False,
    save_every=3,
    log_every=1,
  )
