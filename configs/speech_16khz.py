"""Causal speech codec at 16 kHz, 50 latents a second, 1 to 6 kbit/s (2 to 12 codebooks of 10 bits).

Command: python -m launch.train --config configs/speech_16khz.py --workdir DIR \\
  --set data.sources=speech_train.tar

Under an hour on two CPU cores. No discriminator: a multi-scale mel distance and the log of the
wave's relative error.
"""

import dataclasses

from jaxcodec.audio.encodec import Encodec
from jaxcodec.data.sound import Sound
from jaxcodec.layers.seanet import SEANetConfig
from jaxcodec.training.config import LearningRate, Losses, Muon, Quantization, Train, small
from jaxcodec.training.losses import MelScales


def get_config() -> Train:
  # The widest strides come first: few channels at the signal's rate make it cheap on a CPU.
  net = SEANetConfig(
    num_filters=16,
    strides=(8, 5, 4, 2),
    dimension=64,
    num_lstm_layers=0,
    pad_mode="zero",
    conv_shortcut=False,
    steady=True,
  )
  codec = Encodec(
    net=net,
    sample_rate=16_000,
    num_codebooks=12,
    codebook_size=1024,
    bitrates=(1000, 1500, 2000, 3000, 4000, 5000, 6000),
  )
  mel = MelScales(
    scales=((128, 16), (256, 32), (512, 64), (1024, 80), (2048, 80)),
    floor=1e-4,
    # Natural logarithms count 2.3 times as much as these.
    log_l1=2.3,
    linear_l1=1.0,
  )
  return Train(
    name="speech-16khz",
    codec=codec,
    data=Sound(segment_seconds=0.8, gain_db=(-10.0, 6.0)),
    batch_size=12,
    num_steps=4800,
    optimizer=Muon(rate=LearningRate(peak=3e-3, warmup_steps=100, cosine=True), clip_norm=5.0),
    losses=Losses(wave=1.0, mel=3.3, mel_scales=mel, commitment=0.25),
    quantization=Quantization(
      start_step=300,
      kmeans_batches=24,
      active_choices=(2, 3, 4, 6, 8, 10, 12, 12),
      dead_share=0.1,
    ),
    input_gain=10.0,
    save_every=500,
    samples_every=1000,
  )


def tiny() -> Train:
  """The same code path in seconds on a CPU, for tests."""
  config = get_config()
  net = dataclasses.replace(config.codec.net, num_filters=2, strides=(8,), dimension=4)
  codec = config.codec.clone(net=net, num_codebooks=2, codebook_size=8, bitrates=(12_000,))
  quantization = dataclasses.replace(
    config.quantization, start_step=1, kmeans_batches=2, active_choices=(1, 2), restart_every=1
  )
  data = dataclasses.replace(config.data, segment_seconds=0.05)
  return small(dataclasses.replace(config, quantization=quantization), codec, data)
