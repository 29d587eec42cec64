"""DAC at 44.1 kHz: 86 frames a second, up to 7.75 kbit/s (9 codebooks of 10 bits); not causal.

Command: python -m launch.train --config configs/dac_44khz.py --workdir DIR \\
  --set data.sources=SOUNDS

Source: https://arxiv.org/abs/2306.06546 and conf/final/44khz.yml of its code. Loudness is drawn
here and not normalised before.
"""

import dataclasses

import jax.numpy as jnp

from jaxcodec.audio.dac import Dac, bitrates
from jaxcodec.data.sound import Sound
from jaxcodec.layers.dac import DacConfig
from jaxcodec.training.config import (
  Adam,
  Adversary,
  LearningRate,
  Losses,
  Quantization,
  Train,
  small,
)
from jaxcodec.training.discriminators import MultiBandSTFT, MultiPeriod, Normalised
from jaxcodec.training.losses import DAC_MEL, LEAST_SQUARES


def get_config() -> Train:
  codec = Dac(
    net=DacConfig(),
    sample_rate=44_100,
    num_codebooks=9,
    codebook_size=1024,
    bitrates=bitrates(44_100, 512, 9, 1024),
  )
  rate = LearningRate(peak=1e-4, decay=0.999996)
  optimizer = Adam(rate=rate, b1=0.8, b2=0.99, weight_decay=0.01, clip_norm=1000.0)
  parts = (
    MultiPeriod(always_pad=True, dtype=jnp.bfloat16),
    MultiBandSTFT(dtype=jnp.bfloat16),
  )
  return Train(
    name="dac-44khz",
    codec=codec,
    data=Sound(segment_seconds=0.38, gain_db=(-10.0, 6.0)),
    batch_size=72,
    num_steps=400_000,
    optimizer=optimizer,
    losses=Losses(
      mel=15.0, mel_scales=DAC_MEL, adversarial=1.0, features=2.0, commitment=0.25, codebook=1.0
    ),
    adversary=Adversary(
      discriminators=(Normalised(parts),),
      optimizer=dataclasses.replace(optimizer, clip_norm=10.0),
      loss=LEAST_SQUARES,
      summed=True,
    ),
    # Half of the rows draw from 1 to 9 codebooks, the others have all of them.
    quantization=Quantization(decay=0.0, active_choices=(*range(1, 10), *(9,) * 9)),
    compute_dtype=jnp.bfloat16,
    samples_every=2000,
  )


def tiny() -> Train:
  """The same code path in seconds on a CPU, for tests."""
  config = get_config()
  net = DacConfig(encoder_width=2, decoder_width=8, strides=(16,), dimension=4)
  codec = config.codec.clone(
    net=net, num_codebooks=2, codebook_size=8, codebook_features=4, bitrates=(8269, 16_538)
  )
  quantization = Quantization(decay=0.0, active_choices=(1, 2))
  config = dataclasses.replace(config, quantization=quantization)
  parts = (
    MultiPeriod(periods=(2,), widths=(2, 2), always_pad=True),
    MultiBandSTFT(windows=(128,), bands=(1.0,), filters=2),
  )
  return small(config, codec, Sound(segment_seconds=0.01), Normalised(parts))
