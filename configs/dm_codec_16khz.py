"""DM-Codec at 16 kHz, 50 frames a second, 0.5 to 4 kbit/s (8 codebooks of 10 bits).

Command: python -m launch.train --config configs/dm_codec_16khz.py --workdir DIR \\
  --set data.sources=CLIPS --set data.teachers=SPEECH_FEATURES,TEXT_FEATURES

CLIPS are of 3 s; the folders hold a file of features for each (`data.taught`): of HuBERT's states
and of BERT's, both means over all layers, as extract_rep.py of the source writes them, or without
the rows of padding, which are no target then.
Source: https://arxiv.org/abs/2410.15017; config.json and trainer.py of its code. Its mel loss has
hops of 240 samples and halves, and filters of unit area on HTK's scale; here the hop is a quarter
of a window and the scale is Slaney's. All stages pull the encoder, in the source the first alone.
"""

import dataclasses

import jax.numpy as jnp

from configs.hifi_codec_24khz import LOSSES, adversary
from jaxcodec.audio.dac import bitrates
from jaxcodec.audio.dm_codec import DmCodec
from jaxcodec.data.taught import TaughtSound
from jaxcodec.layers.seanet import SEANetConfig
from jaxcodec.training.config import Adam, LearningRate, Quantization, Train, small
from jaxcodec.training.discriminators import MultiPeriod
from jaxcodec.training.distillation import Distillation


def get_config() -> Train:
  codec = DmCodec(
    net=SEANetConfig(num_filters=64, dimension=1024, causal=False),
    sample_rate=16_000,
    num_codebooks=8,
    codebook_size=1024,
    bitrates=bitrates(16_000, 320, 8, 1024),
  )
  optimizer = Adam(rate=LearningRate(peak=1e-4, cosine=True), b1=0.9, b2=0.99)
  return Train(
    name="dm-codec-16khz",
    codec=codec,
    data=TaughtSound(segment_seconds=3.0, frames=149, features=768),
    batch_size=48,
    num_steps=100_000,
    optimizer=optimizer,
    # The source has three smaller windows in its mel loss as well, with a 45th of the weight.
    losses=dataclasses.replace(LOSSES, l1=500.0, commitment=10.0, distillation=120.0),
    adversary=adversary(optimizer),
    quantization=Quantization(kmeans_batches=1, dead_share=0.1, restart_every=100),
    distillation=Distillation(),
    compute_dtype=jnp.bfloat16,
    samples_every=2000,
  )


def tiny() -> Train:
  """The same code path in seconds on a CPU, for tests."""
  config = get_config()
  net = dataclasses.replace(
    config.codec.net, num_filters=2, strides=(8,), dimension=4, num_lstm_layers=1
  )
  return small(
    config,
    config.codec.clone(
      net=net,
      num_codebooks=2,
      codebook_size=8,
      bitrates=(6000, 12_000),
      teacher_features=6,
    ),
    TaughtSound(segment_seconds=0.03, frames=50, features=6),
    MultiPeriod(periods=(2,), widths=(2, 4)),
  )
