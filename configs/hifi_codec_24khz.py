"""HiFi-Codec at 24 kHz, 75 frames a second, 3 kbit/s (2 groups of 2 codebooks of 10 bits).

Command: python -m launch.train --config configs/hifi_codec_24khz.py --workdir DIR \\
  --set data.sources=SPEECH

Source: https://arxiv.org/abs/2305.02765; egs/HiFi-Codec-24k-320d and train.py of AcademiCodec. Its
codebooks learn by gradient from a start near zero, where most of them are never used on little
data; here they are moving averages that begin by k-means. Its mel loss has a hop of 240 samples,
this one of 256, and the two lesser ones, of a 45th of its weight, are left out.
"""

import dataclasses
import math

import jax.numpy as jnp

from jaxcodec.audio.hifi_codec import HiFiCodec, HiFiConfig
from jaxcodec.data.sound import Sound
from jaxcodec.training.config import (
  Adam,
  Adversary,
  LearningRate,
  Losses,
  Quantization,
  Train,
  small,
)
from jaxcodec.training.discriminators import MultiPeriod, MultiScaleGrouped, MultiScaleSTFT
from jaxcodec.training.losses import LEAST_SQUARES, MelScales

LOSSES = Losses(
  # The source takes natural logarithms.
  mel=45 * math.log(10),
  mel_scales=MelScales(
    scales=((1024, 80),), slaney=True, unit_energy=False, floor_added=False, mean=False
  ),
  adversarial=1.0,
  features=2.0,
)


def get_config() -> Train:
  codec = HiFiCodec(
    net=HiFiConfig(), sample_rate=24_000, num_codebooks=4, codebook_size=1024, bitrates=(3000,)
  )
  # The source lowers the rate by 2 % an epoch.
  optimizer = Adam(rate=LearningRate(peak=2e-4, decay=0.98 ** (1 / 1000)), b1=0.5, b2=0.9)
  return Train(
    name="hifi-codec-24khz",
    codec=codec,
    data=Sound(segment_seconds=2 / 3),
    batch_size=80,
    num_steps=400_000,
    optimizer=optimizer,
    losses=dataclasses.replace(LOSSES, commitment=2.5),
    adversary=adversary(optimizer),
    quantization=Quantization(kmeans_batches=1, dead_share=0.1, restart_every=100),
    compute_dtype=jnp.bfloat16,
    samples_every=2000,
  )


def adversary(optimizer: Adam) -> Adversary:
  """The discriminators of AcademiCodec."""
  discriminators = (
    MultiPeriod(dtype=jnp.bfloat16),
    MultiScaleGrouped(dtype=jnp.bfloat16),
    MultiScaleSTFT(dtype=jnp.bfloat16),
  )
  return Adversary(
    discriminators=discriminators, optimizer=optimizer, loss=LEAST_SQUARES, summed=True
  )


def tiny() -> Train:
  """The same code path in seconds on a CPU, for tests."""
  config = get_config()
  net = HiFiConfig(
    encoder_width=2,
    decoder_width=4,
    strides=(8,),
    kernel_sizes=(16,),
    block_kernels=(3, 5),
    dilations=(1,),
    group_width=2,
    dimension=4,
  )
  return small(
    config,
    config.codec.clone(net=net, codebook_size=8, bitrates=(36_000,)),
    Sound(segment_seconds=0.03),
    MultiPeriod(periods=(2,), widths=(2, 4)),
    MultiScaleGrouped(scales=1, width=16),
    MultiScaleSTFT(windows=(128,), filters=2),
  )
