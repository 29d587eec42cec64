"""A streaming recogniser of letters: FastConformer, CTC and transducer, four look-aheads in one.

Command: python -m launch.train --config configs/stateful_conformer.py --workdir DIR \\
  --set data.sources=SPEECH.tar --set data.table=SPEECH.csv

The published large network (17 layers of 512) and its recipe but for the rate: Noam's schedule has
its peak, 2.2e-3 at step 10,000, here, and falls by half a cosine; letters take the place of 1024
pieces. Nothing was trained to its end yet.
"""

import dataclasses

from jaxcodec.audio.stateful_conformer import ConformerConfig, StatefulConformer
from jaxcodec.data.transcribed import LETTERS, Transcribed
from jaxcodec.training.config import Adam, LearningRate
from jaxcodec.training.speech import TrainSpeech


def get_config() -> TrainSpeech:
  net = ConformerConfig(labels=len(LETTERS), lefts=(70, 70, 70, 70), rights=(13, 6, 1, 0))
  return TrainSpeech(
    name="stateful-conformer",
    model=StatefulConformer(net),
    data=Transcribed(seconds=16.0, letters=300),
    batch_size=128,
    num_steps=100_000,
    optimizer=Adam(
      rate=LearningRate(peak=2.2e-3, warmup_steps=10_000, cosine=True),
      b1=0.9,
      b2=0.98,
      weight_decay=1e-3,
      clip_norm=1.0,
    ),
  )


def tiny() -> TrainSpeech:
  """The same code path in seconds on a CPU, for tests."""
  net = ConformerConfig(
    labels=len(LETTERS),
    bands=10,
    channels=2,
    width=8,
    num_heads=2,
    hidden=16,
    num_layers=2,
    kernel=3,
    lefts=(4, 4),
    rights=(1, 0),
    prediction=4,
  )
  config = get_config()
  return dataclasses.replace(
    config,
    model=StatefulConformer(net),
    data=Transcribed(seconds=1.0, letters=10),
    batch_size=4,
    num_steps=3,
    save_every=3,
    log_every=1,
  )
