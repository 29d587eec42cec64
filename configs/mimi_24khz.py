"""A codec of Mimi's shape at 24 kHz: causal, 12.5 frames a second, 0.1 to 1.1 kbit/s.

Command: python -m launch.train --config configs/mimi_24khz.py --workdir DIR \\
  --set data.sources=SPEECH

Source: https://arxiv.org/abs/2410.00037, section 3.3. Without distillation, so its first codebook
is not semantic. As in the paper's last recipe no loss compares signals: the codec learns from its
discriminators alone.
"""

import dataclasses

import jax.numpy as jnp

from jaxcodec.audio.dac import bitrates
from jaxcodec.audio.mimi import Mimi, MimiConfig
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


def get_config() -> Train:
  net = SEANetConfig(
    num_filters=64,
    strides=(4, 5, 6, 8),
    dimension=512,
    last_kernel_size=3,
    num_lstm_layers=0,
    pad_mode="zero",
    conv_shortcut=False,
  )
  codec = Mimi(
    config=MimiConfig(net=net),
    sample_rate=24_000,
    num_codebooks=8,
    codebook_size=2048,
    codebook_features=256,
    bitrates=bitrates(24_000, 1920, 8, 2048),
  )
  rate = LearningRate(peak=8e-4, warmup_steps=1000)
  optimizer = Adam(rate=rate, b1=0.5, b2=0.95, weight_decay=0.05, clip_norm=10.0)
  return Train(
    name="mimi-24khz",
    codec=codec,
    data=Sound(segment_seconds=12.0, gain_db=(-10.0, 6.0)),
    batch_size=64,
    num_steps=4_000_000,
    optimizer=optimizer,
    losses=Losses(adversarial=4.0, features=4.0, commitment=1.0, balanced=0.999),
    adversary=Adversary(
      discriminators=(MultiScaleSTFT(dtype=jnp.bfloat16),),
      optimizer=dataclasses.replace(optimizer, weight_decay=0.0),
    ),
    quantization=Quantization(
      kmeans_batches=1,
      active_choices=tuple(range(1, 9)),
      pass_share=0.5,
      dead_share=0.1,
      restart_every=100,
    ),
    average_decay=0.99,
    compute_dtype=jnp.bfloat16,
    samples_every=2000,
  )


def tiny() -> Train:
  """The same code path in seconds on a CPU, for tests."""
  config = get_config()
  net = dataclasses.replace(config.codec.config.net, num_filters=2, strides=(8,), dimension=8)
  shape = MimiConfig(net=net, num_layers=1, num_heads=2, hidden=8, window=8)
  codec = config.codec.clone(
    config=shape, num_codebooks=3, codebook_size=8, codebook_features=4, bitrates=(13_500,)
  )
  quantization = Quantization(
    kmeans_batches=1, active_choices=(1, 2, 3), pass_share=0.5, dead_share=0.1, restart_every=1
  )
  config = dataclasses.replace(config, quantization=quantization)
  judge = MultiScaleSTFT(windows=(128,), filters=2)
  return small(config, codec, Sound(segment_seconds=0.02), judge)
