"""A classifier of ten kinds of sound that streams: LMUFormer at its published size.

Command: python -m launch.train --config configs/lmuformer.py --workdir DIR \\
  --set data.sources=esc10.tar --set data.table=esc10.csv

Source: https://arxiv.org/abs/2402.04882; src/gsc.yml, traintest.py and dataloader.py of its code.
There 35 words of Speech Commands, 200 epochs; the rate falls by 0.85 every 10 of them, here at each
step. The spiking network: `--set model.config.spiking=true --set model.config.memory=512`.
"""

import dataclasses

from jaxcodec.audio.lmuformer import LmuConfig, LmuFormer
from jaxcodec.data.labelled import Labelled
from jaxcodec.training.classes import TrainClassifier
from jaxcodec.training.config import Adam, LearningRate

ESC10 = (
  "dog_bark",
  "rain",
  "sea_waves",
  "baby_cry",
  "clock_tick",
  "person_sneeze",
  "helicopter",
  "chainsaw",
  "rooster",
  "fire_crackling",
)


def get_config() -> TrainClassifier:
  return TrainClassifier(
    name="lmuformer",
    model=LmuFormer(LmuConfig(classes=len(ESC10))),
    # 128 frames.
    data=Labelled(names=ESC10, seconds=1.295),
    batch_size=128,
    num_steps=4000,
    optimizer=Adam(rate=LearningRate(peak=2.5e-3, decay=0.85 ** (1 / 200)), b1=0.95, b2=0.999),
    average_decay=0.99,
  )


def tiny() -> TrainClassifier:
  """The same code path in seconds on a CPU, for tests."""
  config = get_config()
  network = LmuConfig(classes=2, bands=10, width=8, memory=6, theta=8, hidden=12)
  return dataclasses.replace(
    config,
    model=LmuFormer(network),
    data=Labelled(names=("low", "high"), seconds=0.125),
    augment=dataclasses.replace(config.augment, bands=4, frames=4, shift=2),
    batch_size=8,
    num_steps=3,
    save_every=3,
    log_every=1,
  )
