"""SoundStream at 16 kHz, causal, 50 frames a second, up to 9 kbit/s (18 codebooks of 10 bits).

Command: python -m launch.train --config configs/soundstream_16khz.py --workdir DIR \\
  --set data.sources=SOUNDS

Source: https://arxiv.org/abs/2107.03312. Its network is SEANet without recurrence, its
discriminators judge waves at three rates and one spectrum. Of its spectral loss the scales are as
EnCodec has them, without the growth of their weights.
"""

import dataclasses

import jax.numpy as jnp

from jaxcodec.audio.dac import bitrates
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
from jaxcodec.training.discriminators import MultiScaleSTFT, MultiScaleWave
from jaxcodec.training.losses import ENCODEC_MEL


def get_config() -> Train:
  net = SEANetConfig(
    pad_mode="zero",
    dimension=256,
    num_lstm_layers=0,
    num_residual_layers=3,
    dilation_base=3,
    conv_shortcut=False,
  )
  codec = Encodec(
    net=net,
    sample_rate=16_000,
    num_codebooks=18,
    codebook_size=1024,
    bitrates=bitrates(16_000, 320, 18, 1024),
  )
  optimizer = Adam(rate=LearningRate(peak=1e-4), b1=0.5, b2=0.9)
  discriminators = (
    MultiScaleWave(dtype=jnp.bfloat16),
    MultiScaleSTFT(windows=(1024,), dtype=jnp.bfloat16),
  )
  return Train(
    name="soundstream-16khz",
    codec=codec,
    data=Sound(segment_seconds=1.0, gain_db=(-10.0, 6.0)),
    batch_size=128,
    num_steps=1_000_000,
    optimizer=optimizer,
    losses=Losses(mel=1.0, mel_scales=ENCODEC_MEL, adversarial=1.0, features=100.0, commitment=1.0),
    adversary=Adversary(discriminators=discriminators, optimizer=optimizer),
    quantization=Quantization(
      kmeans_batches=1,
      active_choices=tuple(range(1, 19)),
      dead_share=0.1,
      restart_every=100,
    ),
    compute_dtype=jnp.bfloat16,
    samples_every=2000,
  )


def tiny() -> Train:
  """The same code path in seconds on a CPU, for tests."""
  config = get_config()
  net = dataclasses.replace(config.codec.net, num_filters=2, strides=(8,), dimension=4)
  net = dataclasses.replace(net, num_residual_layers=1)
  quantization = Quantization(kmeans_batches=1, active_choices=(1, 2))
  return small(
    dataclasses.replace(config, quantization=quantization),
    config.codec.clone(net=net, num_codebooks=2, codebook_size=8, bitrates=(12_000,)),
    Sound(segment_seconds=0.03),
    MultiScaleWave(scales=1, width=2, strides=(2,)),
    MultiScaleSTFT(windows=(128,), filters=2),
  )
