"""WavTokenizer at 24 kHz, 75 frames a second, 0.9 kbit/s (1 codebook of 12 bits).

Command: python -m launch.train --config configs/wavtokenizer_24khz.py --workdir DIR \\
  --set data.sources=SPEECH

Source: https://arxiv.org/abs/2408.16532; configs/*frame75*.yaml and decoder/experiment.py of its
code. Of its discriminators DAC's, the third, is left out: two kinds judge by the hinge loss. A step
moves the codebook once; the source moves it in the discriminators' step too.
"""

import dataclasses
import math

import jax.numpy as jnp

from jaxcodec.audio.dac import bitrates
from jaxcodec.audio.wavtokenizer import WavTokenizer
from jaxcodec.data.sound import Sound
from jaxcodec.decoders.vocos import VocosConfig
from jaxcodec.layers.seanet import SEANetConfig
from jaxcodec.training.config import (
  Adam,
  Adversary,
  LearningRate,
  Losses,
  Quantization,
  Train,
  small,
)
from jaxcodec.training.discriminators import MultiBandSTFT, MultiPeriod
from jaxcodec.training.losses import MelScales

MEL = MelScales(
  scales=((1024, 100),),
  unit_energy=False,
  centred=True,
  floor=1e-7,
  floor_added=False,
  mean=False,
)
LOSSES = Losses(
  # The source takes natural logarithms, and sums what judges of a kind and their layers say.
  mel=45 * math.log(10),
  mel_scales=MEL,
  adversarial=2.0,
  features=30.0,
  commitment=1000.0,
)
OPTIMIZER = Adam(rate=LearningRate(peak=2e-4, cosine=True), weight_decay=0.01)
ADVERSARY = Adversary(
  discriminators=(MultiPeriod(dtype=jnp.bfloat16), MultiBandSTFT(dtype=jnp.bfloat16)),
  optimizer=OPTIMIZER,
)

# Of `tiny`.
JUDGES = (
  MultiPeriod(periods=(2,), widths=(2, 4)),
  MultiBandSTFT(windows=(128,), bands=(1.0,), filters=2),
)


def get_config() -> Train:
  codec = WavTokenizer(
    net=SEANetConfig(dimension=512, causal=False),
    vocos=VocosConfig(),
    sample_rate=24_000,
    num_codebooks=1,
    codebook_size=4096,
    bitrates=bitrates(24_000, 320, 1, 4096),
  )
  return Train(
    name="wavtokenizer-24khz",
    codec=codec,
    data=Sound(segment_seconds=3.0, repeated=True, peak_db=(-6.0, -1.0)),
    batch_size=320,
    num_steps=1_000_000,
    optimizer=OPTIMIZER,
    losses=LOSSES,
    adversary=ADVERSARY,
    quantization=Quantization(kmeans_batches=1, dead_share=0.1, restart_every=100),
    compute_dtype=jnp.bfloat16,
    samples_every=2000,
  )


def tiny() -> Train:
  """The same code path in seconds on a CPU, for tests."""
  config = get_config()
  net = dataclasses.replace(
    config.codec.net, num_filters=2, strides=(8,), dimension=4, num_lstm_layers=1
  )
  codec = config.codec.clone(
    net=net,
    vocos=VocosConfig(width=8, hidden=8, num_layers=1, window_length=32),
    num_groups=2,
    codebook_size=16,
    bitrates=(12_000,),
  )
  return small(config, codec, Sound(segment_seconds=0.02), *JUDGES)
