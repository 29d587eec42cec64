"""EnCodec at 24 kHz, causal, 75 frames a second, 1.5 to 24 kbit/s (2 to 32 codebooks of 10 bits).

Command: python -m launch.train --config configs/encodec_24khz.py --workdir DIR \\
  --set data.sources=SOUNDS

Source: https://arxiv.org/abs/2210.13438 and audiocraft's config/solver/compression. Signals are
padded with zeros and not reflected, so that the codec streams from its first sample on.
"""

import dataclasses

import jax.numpy as jnp

from jaxcodec.audio.encodec import Encodec
from jaxcodec.data.sound import Sound
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
from jaxcodec.training.discriminators import MultiScaleSTFT
from jaxcodec.training.losses import ENCODEC_MEL


def get_config() -> Train:
  codec = Encodec(
    net=SEANetConfig(pad_mode="zero"),
    sample_rate=24_000,
    num_codebooks=32,
    codebook_size=1024,
    bitrates=(1500, 3000, 6000, 12_000, 24_000),
  )
  optimizer = Adam(rate=LearningRate(peak=3e-4), b1=0.5, b2=0.9)
  return Train(
    name="encodec-24khz",
    codec=codec,
    data=Sound(segment_seconds=1.0, gain_db=(-10.0, 6.0)),
    batch_size=64,
    num_steps=600_000,
    optimizer=optimizer,
    losses=Losses(
      l1=0.1,
      mel=2.0,
      mel_scales=ENCODEC_MEL,
      adversarial=4.0,
      features=4.0,
      commitment=1.0,
      balanced=0.999,
    ),
    adversary=Adversary(
      discriminators=(MultiScaleSTFT(dtype=jnp.bfloat16),),
      optimizer=optimizer,
      update_share=2 / 3,
    ),
    quantization=Quantization(
      kmeans_batches=1, active_choices=(2, 4, 8, 16, 32), dead_share=0.1, restart_every=100
    ),
    average_decay=0.99,
    compute_dtype=jnp.bfloat16,
    samples_every=2000,
  )


def tiny() -> Train:
  """The same code path in seconds on a CPU, for tests."""
  config = get_config()
  net = dataclasses.replace(config.codec.net, num_filters=2, strides=(8,), dimension=4)
  net = dataclasses.replace(net, num_lstm_layers=1)
  codec = config.codec.clone(net=net, num_codebooks=2, codebook_size=8, bitrates=(18_000,))
  quantization = Quantization(kmeans_batches=1, active_choices=(1, 2))
  config = dataclasses.replace(config, quantization=quantization)
  judge = MultiScaleSTFT(windows=(128,), filters=2)
  return small(config, codec, Sound(segment_seconds=0.02), judge)
